-- The queue of redemptions and their settlement.
--
--     POST -> queue_redemptions -> redemption 1, 2, 3, ...  -> settle_chunk -> outcome 1, 2, 3, ... and transfers
--             (any node)           (durable: 202)              (one settler)
--
-- The number is the order. It comes from one row that is locked by its own update until the commit: so numbers have no
-- gap, commit in their order, and whoever reads the row may rely on every redemption up to it. A sequence would give
-- numbers out before the commit: 5 could appear after 6 was settled, and be missed or settled too late.

create table intake (
    one boolean primary key default true check (one),
    -- The newest number.
    accepted bigint not null default 0
);
insert into intake default values;

create table settlement (
    one boolean primary key default true check (one),
    -- Everything up to this number has its outcome, and nothing beyond it.
    decided bigint not null default 0,
    settled bigint not null default 0,
    refused bigint not null default 0,
    parked bigint not null default 0,
    constraint every_outcome_is_counted check (decided = settled + refused + parked)
);
insert into settlement default values;

create table redemption (
    seq bigint primary key,
    account text not null,
    key text not null,
    amount bigint not null,
    recorded_at timestamptz not null,
    business_at timestamptz not null,
    -- In the queue when it was taken, from 1.
    place bigint not null,
    constraint amount_is_positive check (amount > 0)
);
-- For the stored answer to a key.
create unique index redemption_of_key on redemption (account, key);
create index redemption_of_account on redemption (account, seq);

create table outcome (
    seq bigint primary key,
    -- Parked: it could not be decided; nothing was moved, those behind it went on, and an operator is told.
    status text not null check (status in ('settled', 'refused', 'parked')),
    -- A word for the customer, and after a colon what only operators see.
    reason text,
    transfer bigint,
    balance_after bigint,
    decided_at timestamptz not null,
    constraint settled_by_a_transfer check ((status = 'settled') = (transfer is not null)),
    constraint otherwise_a_reason check ((status = 'settled') = (reason is null))
);

create trigger redemption_is_append_only before update or delete or truncate on redemption
    for each statement execute function refuse_change();
create trigger outcome_is_append_only before update or delete or truncate on outcome
    for each statement execute function refuse_change();

-- Takes redemptions into the queue, in the order they are given, and gives one row for each. The same key again, in this
-- call, at another node or from a deposit, waits for the first try and gets its answer. Outcomes:
--   answered         `status` and `response` are the answer; `replayed` when it is the stored one of an earlier try
--   mismatch         the key was used for another order
--   unauthenticated  no such session, or it has expired
--   busy             the first try is still under way after a quarter of a second; nothing was done
create function queue_redemptions(
    p_token_hashes bytea[], p_keys text[], p_payload_hashes bytea[], p_amounts bigint[])
returns table (outcome text, status integer, response text, replayed boolean)
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '250ms' as $$
declare
    v_accounts text[];
    v_new boolean[];
    v_one record;
    v_count bigint;
    v_last bigint;
    v_decided bigint;
    v_recorded_at timestamptz;
    v_business_at timestamptz;
begin
    select array_agg(s.account order by given.n) into v_accounts
    from unnest(p_token_hashes) with ordinality as given (token_hash, n)
    left join session s on s.token_hash = given.token_hash and s.expires_at > now();

    -- In the order of the keys, so that two calls with the same keys cannot wait for each other.
    begin
        with given as (
            select * from unnest(v_accounts, p_keys, p_payload_hashes) with ordinality as g (account, key, payload, n)
        ), first as materialized (
            select distinct on (g.account, g.key) g.* from given g where g.account is not null
            order by g.account, g.key, g.n
        ), taken as (
            insert into idempotency (account, key, route, payload_hash, status)
                select f.account, f.key, 'redemption', f.payload, 202 from first f order by f.account, f.key
                on conflict do nothing
                returning account, key
        ), new as (
            select f.n from first f join taken t on t.account = f.account and t.key = f.key
        )
        select array_agg(new.n is not null order by g.n) into v_new from given g left join new on new.n = g.n;
    exception when lock_not_available then
        -- Some key is held by an order that is stuck elsewhere: one by one, so that nobody else has to wait for it.
        perform set_config('lock_timeout', '10ms', true);
        v_new := array_fill(false, array[cardinality(p_keys)]);
        for v_one in
            select g.* from unnest(v_accounts, p_keys, p_payload_hashes) with ordinality as g (account, key, payload, n)
            where g.account is not null order by g.account, g.key, g.n
        loop
            begin
                insert into idempotency (account, key, route, payload_hash, status)
                    values (v_one.account, v_one.key, 'redemption', v_one.payload, 202) on conflict do nothing;
                v_new[v_one.n] := found;
            exception when lock_not_available then
                null;  -- the key is not there for this call either: told as busy below
            end;
        end loop;
    end;
    perform set_config('lock_timeout', '0', true);

    select count(*) filter (where new) into v_count from unnest(v_new) as g (new);
    if v_count > 0 then
        -- From here to the commit every other call waits.
        update intake set accepted = accepted + v_count returning accepted - v_count into strict v_last;
        select s.decided into strict v_decided from settlement s;
        v_recorded_at := clock_timestamp();
        v_business_at := business_now();
        insert into redemption (seq, account, key, amount, recorded_at, business_at, place)
            select v_last + row_number() over (order by g.n), g.account, g.key, g.amount, v_recorded_at, v_business_at,
                   v_last + row_number() over (order by g.n) - v_decided
            from unnest(v_accounts, p_keys, p_amounts, v_new) with ordinality as g (account, key, amount, new, n)
            where g.new
            order by g.n;
    end if;

    return query
    select case when g.account is null then 'unauthenticated'
                when i.key is null then 'busy'
                when i.route <> 'redemption' or i.payload_hash <> g.payload_hash then 'mismatch'
                else 'answered' end as said,
           202,
           -- Made of what never changes, so that the first answer and the stored one are the same text.
           json_build_object(
               'id', r.seq, 'kind', 'redemption', 'amount', r.amount, 'status', 'queued', 'place', r.place,
               'accepted_at', to_char(r.recorded_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))::text,
           not g.new
    from unnest(v_accounts, p_keys, p_payload_hashes, v_new) with ordinality as g (account, key, payload_hash, new, n)
    left join idempotency i on i.account = g.account and i.key = g.key
    left join redemption r on r.account = g.account and r.key = g.key
    order by g.n;
end
$$;

-- What is left of an account's balance after a request: less the amount where there is enough, unchanged where not, so
-- that a refused request consumes nothing. The first call of an account starts from its balance.
create function funds_left(p_left bigint, p_balance bigint, p_amount bigint) returns bigint
language plpgsql immutable as $$
begin
    if p_left is null then
        p_left := p_balance;
    end if;
    if p_left >= p_amount then
        return p_left - p_amount;
    end if;
    return p_left;
end
$$;
create aggregate greedy(bigint, bigint) (sfunc = funds_left, stype = bigint);

-- Decides the next `p_limit` redemptions in order, each on what the ones before it left; no row when there is none or
-- settling is off. Decision, transfer, balance and outcome are one transaction, under the lease.
create function settle_chunk(p_token bigint, p_limit integer)
returns table (first bigint, last bigint, settled bigint, refused bigint, parked bigint)
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_seqs bigint[];
    v_accounts text[];
    v_amounts bigint[];
    v_ids text[];
    v_wallets text[];
    v_balances bigint[];
    v_frozen boolean[];
    v_now timestamptz;
    v_business_at timestamptz;
begin
    -- An idle settler asks many times a second: it must not write a lock each time.
    perform from intake i, settlement s where i.accepted > s.decided;
    if not found then
        return;
    end if;
    perform require_lease('settlement', p_token);
    -- Whoever closes the service waits for this chunk, and none follows it.
    perform from service_state for share;
    if not settling_is_on() then
        return;
    end if;
    select s.decided + 1, least(s.decided + p_limit, i.accepted) into strict first, last
    from settlement s, intake i for no key update of s;
    if first > last then
        return;
    end if;

    select array_agg(r.seq order by r.seq), array_agg(r.account order by r.seq), array_agg(r.amount order by r.seq)
    into v_seqs, v_accounts, v_amounts
    from redemption r where r.seq between first and last;
    if cardinality(v_seqs) is distinct from (last - first + 1)::integer then
        raise exception 'the queue has a gap between % and %', first, last using errcode = 'data_corrupted';
    end if;

    -- In a statement of its own, before numbers and times are taken; what it gives is what the rows are then, and
    -- nobody changes them meanwhile.
    select array_agg(a.id), array_agg(a.wallet), array_agg(a.balance), array_agg(a.frozen)
    into v_ids, v_wallets, v_balances, v_frozen
    from (
        select locked.* from account locked
        where locked.id = any (v_accounts) and locked.kind = 'customer' order by locked.id for no key update
    ) as a;
    v_now := clock_timestamp();
    v_business_at := business_now();

    with request as materialized (
        select q.seq, q.account, q.amount, a.balance, a.wallet,
               case when a.id is null then 'unknown-account' when a.frozen then 'account-frozen' end as parked_for
        from unnest(v_seqs, v_accounts, v_amounts) as q (seq, account, amount)
        left join unnest(v_ids, v_wallets, v_balances, v_frozen) as a (id, wallet, balance, frozen) on a.id = q.account
    ), after as materialized (
        select r.*, greedy(r.balance, r.amount) over (of_account rows unbounded preceding) as balance_after
        from request r window of_account as (partition by r.account order by r.seq)
    ), decision as materialized (
        select a.*,
               case when a.parked_for is not null then 'parked'
                    when a.balance_after < coalesce(
                        lag(a.balance_after) over (partition by a.account order by a.seq), a.balance) then 'settled'
                    else 'refused' end as status
        from after a
    ), moved as (
        insert into transfer (kind, debit_account, credit_account, amount, redemption, recorded_at, business_at)
            select 'redemption', d.account, 'payable-' || d.wallet, d.amount, d.seq, v_now, v_business_at
            from decision d where d.status = 'settled' order by d.seq
            returning transfer.seq, transfer.redemption
    ), ended as (
        insert into outcome (seq, status, reason, transfer, balance_after, decided_at)
            select d.seq, d.status,
                   case d.status when 'parked' then d.parked_for when 'refused' then 'insufficient-funds' end,
                   m.seq, case when d.status <> 'parked' then d.balance_after end, v_now
            from decision d left join moved m on m.redemption = d.seq order by d.seq
            returning outcome.status
    )
    select count(*) filter (where e.status = 'settled'), count(*) filter (where e.status = 'refused'),
           count(*) filter (where e.status = 'parked')
    into settled, refused, parked
    from ended e;

    update settlement s
    set decided = settle_chunk.last, settled = s.settled + settle_chunk.settled,
        refused = s.refused + settle_chunk.refused, parked = s.parked + settle_chunk.parked;
    return next;
end
$$;

-- Parks the next redemption, which could not be decided; nothing but its own outcome changes. Gives whether it did:
-- not when `p_seq` is not the next any more, or settling is off.
create function park_redemption(p_token bigint, p_seq bigint, p_reason text) returns boolean
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform require_lease('settlement', p_token);
    perform from service_state for share;
    if not settling_is_on() then
        return false;
    end if;
    update settlement s set decided = p_seq, parked = s.parked + 1
        from intake i where s.decided = p_seq - 1 and p_seq <= i.accepted;
    if not found then
        return false;
    end if;
    insert into outcome (seq, status, reason, decided_at) values (p_seq, 'parked', p_reason, clock_timestamp());
    return true;
end
$$;

-- The queue as a whole; `oldest_age_seconds` is of the one that is next, 0 when none waits.
create function queue_state()
returns table (accepted bigint, decided bigint, queued bigint, parked bigint, oldest_age_seconds double precision)
language sql stable security definer set search_path = public, pg_temp as $$
    select i.accepted, s.decided, i.accepted - s.decided, s.parked,
           coalesce(greatest(extract(epoch from clock_timestamp() - r.recorded_at), 0), 0)::double precision
    from intake i cross join settlement s left join redemption r on r.seq = s.decided + 1
$$;

-- The session's own redemptions, newest first: the one numbered `p_seq`, or `p_limit` of those before `p_before`. No
-- row without a session, one row of nulls when there is nothing. A parked one's reason is told without its details.
create function read_redemptions(p_token_hash bytea, p_seq bigint, p_before bigint, p_limit integer)
returns table (seq bigint, amount bigint, accepted_at timestamptz, status text, reason text, place bigint,
               transfer bigint, decided_at timestamptz)
language sql stable security definer set search_path = public, pg_temp as $$
    select r.seq, r.amount, r.recorded_at,
           case when r.seq is not null then coalesce(o.status, 'queued') end,
           split_part(o.reason, ':', 1),
           case when o.seq is null then r.seq - progress.decided end,
           o.transfer, o.decided_at
    from session s
    cross join settlement progress
    left join lateral (
        select * from redemption own
        where own.account = s.account and own.seq < p_before and (p_seq is null or own.seq = p_seq)
        order by own.seq desc limit p_limit
    ) as r on true
    left join outcome o on o.seq = r.seq
    where s.token_hash = p_token_hash and s.expires_at > now()
    order by r.seq desc
$$;

revoke all on function funds_left(bigint, bigint, bigint), greedy(bigint, bigint) from public;
grant execute on function
    queue_redemptions(bytea[], text[], bytea[], bigint[]), read_redemptions(bytea, bigint, bigint, integer),
    queue_state()
    to savings_portal;
grant execute on function settle_chunk(bigint, integer), park_redemption(bigint, bigint, text), queue_state()
    to savings_settlement;
grant execute on function queue_state() to savings_maintenance;
grant select on intake, settlement, redemption, outcome to savings_auditor;
