-- What the portal may do. Each function is called as one autocommit statement: one round trip, and a portal that
-- hangs holds no lock. They run with the owner's rights; the portal's role has none of its own on any table.

-- Takes an order of the session's account: `deposit` or `redeem`. Outcomes:
--   answered         `status` and `response` are the answer; `replayed` when it is the stored one of an earlier try
--   mismatch         the key was used for another order
--   unauthenticated  no such session, or it has expired
create function take_order(p_kind text, p_token_hash bytea, p_key text, p_payload_hash bytea, p_amount bigint)
returns table (outcome text, status integer, response text, replayed boolean)
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_account text;
    v_balance bigint;
    v_transfer uuid;
    v_stored idempotency;
begin
    select s.account into v_account from session s where s.token_hash = p_token_hash and s.expires_at > now();
    if not found then
        return query select 'unauthenticated', null::integer, null::text, false;
        return;
    end if;

    -- Waits for a first try that is still under way; whoever gets the row in does the work.
    insert into idempotency (account, key, route, payload_hash)
        values (v_account, p_key, p_kind, p_payload_hash) on conflict do nothing;
    if not found then
        select * into strict v_stored from idempotency i where i.account = v_account and i.key = p_key;
        if v_stored.route <> p_kind or v_stored.payload_hash <> p_payload_hash then
            return query select 'mismatch', null::integer, null::text, false;
        else
            return query select 'answered', v_stored.status, v_stored.response, true;
        end if;
        return;
    end if;

    -- The account is locked before the transfer takes its number, so that an account's transfers
    -- commit in the order of their numbers and `head` says exactly which of them a balance contains.
    select a.balance into strict v_balance from account a where a.id = v_account for no key update;
    if p_kind = 'redeem' and v_balance < p_amount then
        status := 422;
        response := json_build_object(
            'type', 'insufficient-funds', 'title', 'Insufficient funds', 'status', 422,
            'detail', format('The balance is %s, less than the %s asked for.', v_balance, p_amount),
            'field', 'amount');
    else
        insert into transfer (kind, debit_account, credit_account, amount, key)
            values (
                p_kind,
                case p_kind when 'deposit' then 'external' else v_account end,
                case p_kind when 'deposit' then v_account else 'payable' end,
                p_amount,
                p_key)
            returning transfer.id into v_transfer;
        select a.balance into strict v_balance from account a where a.id = v_account;
        status := 201;
        response := json_build_object(
            'id', v_transfer, 'kind', p_kind, 'amount', p_amount, 'balance', v_balance);
    end if;
    update idempotency i set status = take_order.status, response = take_order.response
        where i.account = v_account and i.key = p_key;
    outcome := 'answered';
    replayed := false;
    return next;
end
$$;

-- The session's own balance and the newest transfer it contains; no row without a valid session.
create function read_balance(p_token_hash bytea)
returns table (account text, balance bigint, head bigint)
language sql stable security definer set search_path = public, pg_temp as $$
    select a.id, a.balance, a.head
    from session s join account a on a.id = s.account
    where s.token_hash = p_token_hash and s.expires_at > now()
$$;

create function read_credentials(p_email text)
returns table (account text, password_hash text)
language sql stable security definer set search_path = public, pg_temp as $$
    select c.account, c.password_hash from customer c where c.email = p_email
$$;

-- Opens a session of `p_seconds` and forgets the account's expired ones; gives the time it ends.
create function open_session(p_account text, p_token_hash bytea, p_seconds integer)
returns timestamptz
language sql volatile security definer set search_path = public, pg_temp as $$
    delete from session s where s.account = p_account and s.expires_at <= now();
    insert into session (token_hash, account, expires_at)
        values (p_token_hash, p_account, now() + make_interval(secs => p_seconds))
        returning expires_at;
$$;

revoke all on schema public from public;
revoke all on all functions in schema public from public;
grant usage on schema public to savings_portal, savings_auditor;
grant execute on function
    take_order(text, bytea, text, bytea, bigint), read_balance(bytea), read_credentials(text),
    open_session(text, bytea, integer)
    to savings_portal;
grant select on account, transfer, idempotency to savings_auditor;
