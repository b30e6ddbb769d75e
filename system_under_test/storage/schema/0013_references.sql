-- A deposit may carry the customer's own reference. Applied while nodes of the version before serve customers: what they
-- call stays, with the same parameters and answers (docs/decisions/0007).

-- Deposits of nodes that know of references; a deposit without one is what it was before, to the last byte of its
-- answer. Outcomes are those of the function without p_reference, which this takes the place of.
create function take_deposit(
    p_token_hash bytea, p_key text, p_payload_hash bytea, p_amount bigint, p_reference text)
returns table (outcome text, status integer, response text, replayed boolean)
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_account text := account_of_session(p_token_hash);
    v_wallet text;
    v_transfer bigint;
    v_balance bigint;
    v_stored idempotency;
begin
    if v_account is null then
        return query select 'unauthenticated', null::integer, null::text, false;
        return;
    end if;

    -- Waits for a first try that is still under way; whoever gets the row in does the work.
    insert into idempotency (account, key, route, payload_hash)
        values (v_account, p_key, 'deposit', p_payload_hash) on conflict do nothing;
    if not found then
        select * into strict v_stored from idempotency i where i.account = v_account and i.key = p_key;
        if v_stored.route <> 'deposit' or v_stored.payload_hash <> p_payload_hash then
            return query select 'mismatch', null::integer, null::text, false;
        else
            return query select 'answered', v_stored.status, v_stored.response, true;
        end if;
        return;
    end if;

    -- The account is locked before the transfer takes its number and its time, so that an account's transfers commit
    -- in the order of both, and `head` says exactly which of them a balance contains.
    select a.wallet into strict v_wallet from account a where a.id = v_account for no key update;
    insert into transfer (kind, debit_account, credit_account, amount, key, reference)
        values ('deposit', 'custody-' || v_wallet, v_account, p_amount, p_key, p_reference)
        returning seq into v_transfer;
    select a.balance into strict v_balance from account a where a.id = v_account;
    outcome := 'answered';
    status := 201;
    if p_reference is null then
        response := json_build_object(
            'id', v_transfer, 'kind', 'deposit', 'amount', p_amount, 'balance', v_balance);
    else
        response := json_build_object(
            'id', v_transfer, 'kind', 'deposit', 'amount', p_amount, 'balance', v_balance, 'reference', p_reference);
    end if;
    replayed := false;
    update idempotency i set status = take_deposit.status, response = take_deposit.response
        where i.account = v_account and i.key = p_key;
    return next;
end
$$;

-- For nodes of the version before, until none is left; statements that they have prepared go on working.
create or replace function take_deposit(p_token_hash bytea, p_key text, p_payload_hash bytea, p_amount bigint)
returns table (outcome text, status integer, response text, replayed boolean)
language sql volatile security definer set search_path = public, pg_temp as $$
    select * from take_deposit(p_token_hash, p_key, p_payload_hash, p_amount, null)
$$;

grant execute on function take_deposit(bytea, text, bytea, bigint, text) to savings_portal;

-- From here to the commit every other transaction waits: nothing below reads or rewrites the ledger. That is why the
-- check looks at new rows alone: in all others the column is null.
alter table transfer
    add column reference text,
    add constraint a_reference_is_a_deposits check (
        reference is null or (kind = 'deposit' and length(reference) between 1 and 64)) not valid;

-- A transfer without a reference has the digest that it was sealed with.
create or replace function transfer_digest(t transfer) returns bytea
language sql stable as $$
    select sha256(case
        when t.reference is null then record_send(row(
            t.seq, t.kind, t.debit_account, t.credit_account, t.amount, t.key, t.redemption, t.payout,
            t.recorded_at, t.business_at, t.transaction_id))
        else record_send(row(
            t.seq, t.kind, t.debit_account, t.credit_account, t.amount, t.key, t.redemption, t.payout,
            t.recorded_at, t.business_at, t.transaction_id, t.reference))
    end)
$$;
