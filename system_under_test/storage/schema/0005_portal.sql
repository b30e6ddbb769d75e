-- What the portal may do. Each function is called as one autocommit statement: one round trip, and a portal that
-- hangs holds no lock. They run with the owner's rights; the portal's role has none of its own on any table.

-- The account of a session that is still valid; null without one.
create function account_of_session(p_token_hash bytea) returns text
language sql stable set search_path = public, pg_temp as $$
    select s.account from session s where s.token_hash = p_token_hash and s.expires_at > now()
$$;

-- Takes a deposit to the session's account. Outcomes:
--   answered         `status` and `response` are the answer; `replayed` when it is the stored one of an earlier try
--   mismatch         the key was used for another order
--   unauthenticated  no such session, or it has expired
create function take_deposit(p_token_hash bytea, p_key text, p_payload_hash bytea, p_amount bigint)
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
    insert into transfer (kind, debit_account, credit_account, amount, key)
        values ('deposit', 'custody-' || v_wallet, v_account, p_amount, p_key)
        returning seq into v_transfer;
    select a.balance into strict v_balance from account a where a.id = v_account;
    outcome := 'answered';
    status := 201;
    response := json_build_object(
        'id', v_transfer, 'kind', 'deposit', 'amount', p_amount, 'balance', v_balance);
    replayed := false;
    update idempotency i set status = take_deposit.status, response = take_deposit.response
        where i.account = v_account and i.key = p_key;
    return next;
end
$$;

-- The session's own balance and the newest transfer it contains. Outcomes:
--   ok               the rest is true of transfer `head`
--   synchronising    the session has not been synchronised since the service reopened; the rest is null
--   closed           reads are closed: a maintenance window, or a ledger that is not verified; the rest is null
--   unauthenticated  no such session, or it has expired
create function read_balance(p_token_hash bytea)
returns table (outcome text, account text, balance bigint, interest bigint, head bigint)
language sql stable security definer set search_path = public, pg_temp as $$
    select state.outcome,
           case when state.outcome = 'ok' then a.id end,
           case when state.outcome = 'ok' then a.balance end,
           case when state.outcome = 'ok' then a.interest end,
           case when state.outcome = 'ok' then a.head end
    from service_state service
    left join session s on s.token_hash = p_token_hash and s.expires_at > now()
    left join account a on a.id = s.account
    cross join lateral (
        select case when s.account is null then 'unauthenticated'
                    when not reads_are_open() then 'closed'
                    when s.epoch < service.epoch then 'synchronising'
                    else 'ok' end as outcome
    ) as state
$$;

revoke all on schema public from public;
revoke all on all functions in schema public from public;
alter default privileges revoke execute on functions from public;
grant usage on schema public to
    savings_portal, savings_auditor, savings_accrual, savings_settlement, savings_maintenance, savings_notifier,
    savings_signer_1, savings_signer_2, savings_signer_3;
grant execute on function
    take_deposit(bytea, text, bytea, bigint), read_balance(bytea)
    to savings_portal;
grant execute on function
    business_time(timestamptz), wall_time(timestamptz), business_now()
    to savings_portal, savings_accrual, savings_settlement, savings_maintenance, savings_notifier, savings_auditor;
grant execute on function take_lease(text, text, double precision), release_lease(text, bigint)
    to savings_accrual, savings_settlement;
grant select on account, transfer, idempotency, business_clock, service_state, lease, accrual_hour to savings_auditor;
