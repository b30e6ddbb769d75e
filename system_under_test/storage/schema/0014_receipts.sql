-- A deposit's receipt tells no balance where GET /v1/balance would tell none: it would be a number of a ledger that is
-- not verified, or an old one. What nodes call stays, with the same parameters.

-- A receipt as text. `p_withheld` (null: the balance is told) says why it is not.
create function deposit_receipt(
    p_transfer bigint, p_amount bigint, p_balance bigint, p_withheld text, p_reference text) returns text
language sql immutable set search_path = public, pg_temp as $$
    -- Without a reference and with a balance it is what it always was, to the last byte.
    select case
        when p_withheld is null and p_reference is null then json_build_object(
            'id', p_transfer, 'kind', 'deposit', 'amount', p_amount, 'balance', p_balance)
        when p_withheld is null then json_build_object(
            'id', p_transfer, 'kind', 'deposit', 'amount', p_amount, 'balance', p_balance, 'reference', p_reference)
        when p_reference is null then json_build_object(
            'id', p_transfer, 'kind', 'deposit', 'amount', p_amount, 'balance_withheld', p_withheld)
        else json_build_object(
            'id', p_transfer, 'kind', 'deposit', 'amount', p_amount, 'balance_withheld', p_withheld,
            'reference', p_reference)
    end::text
$$;

-- Why no balance is told for what read_balance said; null where it told one.
create function withheld_because(p_outcome text) returns text language sql immutable as $$
    -- Whoever logs out while a deposit is under way has no session any more when its receipt is written.
    select case p_outcome when 'ok' then null when 'unauthenticated' then 'session-ended' else p_outcome end
$$;

-- A stored receipt as it may be told now: its balance is left out while balances are closed. One that was stored without
-- stays without: what the balance was then was never verified.
create function told_again(p_response text, p_withheld text) returns text
language sql immutable set search_path = public, pg_temp as $$
    select case
        when p_withheld is null or p_response::json -> 'balance' is null then p_response
        else deposit_receipt(
            (p_response::json ->> 'id')::bigint, (p_response::json ->> 'amount')::bigint, null, p_withheld,
            p_response::json ->> 'reference')
    end
$$;

create or replace function take_deposit(
    p_token_hash bytea, p_key text, p_payload_hash bytea, p_amount bigint, p_reference text)
returns table (outcome text, status integer, response text, replayed boolean)
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_account text := account_of_session(p_token_hash);
    v_wallet text;
    v_transfer bigint;
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
            return query
            select 'answered', v_stored.status, told_again(v_stored.response, withheld_because(b.outcome)), true
            from read_balance(p_token_hash) b;
        end if;
        return;
    end if;

    -- The account is locked before the transfer takes its number and its time, so that an account's transfers commit
    -- in the order of both, and `head` says exactly which of them a balance contains.
    select a.wallet into strict v_wallet from account a where a.id = v_account for no key update;
    insert into transfer (kind, debit_account, credit_account, amount, key, reference)
        values ('deposit', 'custody-' || v_wallet, v_account, p_amount, p_key, p_reference)
        returning seq into v_transfer;
    outcome := 'answered';
    status := 201;
    -- Of one moment: the balance with this deposit in it, and whether it may be told.
    select deposit_receipt(v_transfer, p_amount, b.balance, withheld_because(b.outcome), p_reference)
        into strict response
        from read_balance(p_token_hash) b;
    replayed := false;
    update idempotency i set status = take_deposit.status, response = take_deposit.response
        where i.account = v_account and i.key = p_key;
    return next;
end
$$;
