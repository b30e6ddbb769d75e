-- Sessions: log-in within limits, log-out, live views, and synchronisation after the service has reopened.

-- Marking 50,000 sessions as synchronised rewrites no index entry while their pages have room.
alter table session set (fillfactor = 70);

-- Log-in is limited for each address of a customer, over all nodes, and for unknown addresses alike, so that the limit
-- does not tell which exist. Only tries that fail count: one is taken before the password is looked at (or many at
-- once would slip through) and given back when it was right. Three limits for a minute that begins with a failed try:
--
--     10 from one network address     a single attacker cannot use up what others have
--     30 from all network addresses   many attackers together cannot try more
--     10 from one known device        on which the customer has logged in before; none of the others applies to it
--
-- so that whoever tries another's password never keeps that customer out where they have been before, and keeps them
-- out of new devices only with three network addresses or more, and for as long as it goes on.
create table log_in_limit (
    email text not null,
    -- A network address, `all`, or a device's hash.
    origin text not null,
    begun_at timestamptz not null default clock_timestamp(),
    tries integer not null,
    primary key (email, origin)
) with (fillfactor = 50);

-- A device is known by a secret of its own making, of which only the hash is kept.
create table known_device (
    account text not null references account (id),
    secret_hash bytea not null check (length(secret_hash) = 32),
    used_at timestamptz not null default now(),
    primary key (account, secret_hash)
);

-- Each reopening of the service, written by whatever transaction reopens it.
create table reopening (
    epoch bigint primary key,
    reopened_at timestamptz not null default clock_timestamp(),
    -- When the customers' cached balances were last compared with their transfers.
    checked_at timestamptz,
    -- When the last session was synchronised that could be.
    synchronised_at timestamptz
);

-- Whose cached balance is not the sum of their transfers: their sessions stay unsynchronised.
create table differing_account (
    account text primary key references account (id),
    balance bigint not null,
    transfers numeric not null
);

create function note_reopening() returns trigger language plpgsql set search_path = public, pg_temp as $$
begin
    insert into reopening (epoch) values (new.epoch);
    return null;
end
$$;
create trigger service_reopens after update on service_state
    for each row when (new.epoch > old.epoch) execute function note_reopening();

-- Whether the minute that began then is over; one that begins in the future was begun before the clock was set back, and
-- is. To be asked of a row that was read before: by a clock that was read first, one begun meanwhile would be over too.
create function minute_is_over(p_begun_at timestamptz) returns boolean
language sql volatile set search_path = public, pg_temp as $$
    select p_begun_at not between t.now - interval '1 minute' and t.now from (select clock_timestamp() as now) as t
$$;

-- Takes one of `p_most` tries of a minute; gives the seconds until there are more, 0 when it was granted.
create function take_try(p_email text, p_origin text, p_most integer) returns double precision
language plpgsql set search_path = public, pg_temp as $$
declare
    v_found log_in_limit;
begin
    -- Looked at first, so that tries beyond the limit write nothing.
    select * into v_found from log_in_limit l where l.email = p_email and l.origin = p_origin;
    if not found or v_found.tries < p_most or minute_is_over(v_found.begun_at) then
        insert into log_in_limit as l (email, origin, tries) values (p_email, p_origin, 1)
            on conflict (email, origin) do update
            set (begun_at, tries) = (
                select case when m.over then clock_timestamp() else l.begun_at end, case when m.over then 1 else l.tries + 1 end
                from (select minute_is_over(l.begun_at) as over) as m)
            where l.tries < p_most or minute_is_over(l.begun_at);
        if found then
            return 0;
        end if;
        select * into v_found from log_in_limit l where l.email = p_email and l.origin = p_origin;
    end if;
    return greatest(0.001, extract(epoch from v_found.begun_at + interval '1 minute' - clock_timestamp()));
end
$$;

-- Begins to log in: takes a try and gives what the password is compared with; both null for an unknown address.
-- `wait_s` above 0 means that the limit is reached, and for how long; then nothing else is given.
create function begin_log_in(p_email text, p_source text, p_device_hash bytea)
returns table (wait_s double precision, account text, password_hash text)
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    if exists (
        select from customer c join known_device k on k.account = c.account
        where c.email = p_email and k.secret_hash = p_device_hash
    ) then
        wait_s := take_try(p_email, encode(p_device_hash, 'hex'), 10);
    else
        wait_s := take_try(p_email, p_source, 10);
        if wait_s = 0 then
            wait_s := take_try(p_email, 'all', 30);
        end if;
    end if;
    if wait_s = 0 then
        select c.account, c.password_hash into account, password_hash from customer c where c.email = p_email;
    end if;
    return next;
end
$$;

-- The epoch that a session of this account begins with: 0, behind every reopening, until the account's balance has
-- been found right since the newest one.
create function epoch_of_new_session(p_account text) returns bigint
language sql stable set search_path = public, pg_temp as $$
    select case
        when exists (select from reopening r where r.epoch = s.epoch and r.checked_at is null)
            or exists (select from differing_account d where d.account = p_account) then 0
        else s.epoch end
    from service_state s
$$;

-- Opens a session of `p_seconds` after the right password: gives the try back, remembers the device (null: none; the
-- ten used last are kept) and forgets the account's expired sessions. Gives the time at which the session ends.
create function open_session(
    p_email text, p_source text, p_device_hash bytea, p_account text, p_token_hash bytea, p_seconds integer)
returns timestamptz
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_expires_at timestamptz;
begin
    if exists (
        select from known_device k where k.account = p_account and k.secret_hash = p_device_hash
    ) then
        update log_in_limit l set tries = l.tries - 1
            where l.email = p_email and l.origin = encode(p_device_hash, 'hex') and l.tries > 0;
        update known_device k set used_at = now() where k.account = p_account and k.secret_hash = p_device_hash;
    else
        update log_in_limit l set tries = l.tries - 1 where l.email = p_email and l.origin = p_source and l.tries > 0;
        update log_in_limit l set tries = l.tries - 1 where l.email = p_email and l.origin = 'all' and l.tries > 0;
        if p_device_hash is not null then
            insert into known_device (account, secret_hash) values (p_account, p_device_hash) on conflict do nothing;
            delete from known_device k where k.account = p_account and k.secret_hash in (
                select old.secret_hash from known_device old where old.account = p_account
                order by old.used_at desc, old.secret_hash offset 10);
        end if;
    end if;
    delete from session s where s.account = p_account and s.expires_at <= now();
    insert into session (token_hash, account, expires_at, epoch)
        values (p_token_hash, p_account, now() + make_interval(secs => p_seconds), epoch_of_new_session(p_account))
        returning expires_at into v_expires_at;
    return v_expires_at;
end
$$;

-- Logs out; false when there was no such session, or it had expired.
create function close_session(p_token_hash bytea) returns boolean
language plpgsql volatile security definer set search_path = public, pg_temp as $$
begin
    delete from session s where s.token_hash = p_token_hash and s.expires_at > now();
    return found;
end
$$;

-- What the sessions' owners see now, in the order of `p_token_hashes`: the balance as in read_balance, and the newest 20
-- redemptions as in read_redemptions with the time at which they will be settled, as JSON.
create function read_views(p_token_hashes bytea[])
returns table (outcome text, account text, balance bigint, interest bigint, head bigint, redemptions text)
language sql stable security definer set search_path = public, pg_temp as $$
    select b.outcome, b.account, b.balance, b.interest, b.head, coalesce(own.redemptions, '[]')
    from unnest(p_token_hashes) with ordinality as asked (token_hash, number)
    cross join lateral read_balance(asked.token_hash) as b
    cross join lateral (
        select json_agg(json_build_object(
            'id', r.seq, 'kind', 'redemption', 'amount', r.amount, 'status', r.status, 'reason', r.reason,
            'place', r.place, 'transfer', r.transfer,
            -- To five seconds: while nothing is settled it moves on with the time, and each change is told.
            'expected_at', to_char(
                date_bin('5 seconds', expected_settlement(r.place) + interval '5 seconds', 'epoch') at time zone 'UTC',
                'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'accepted_at', to_char(r.accepted_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
            'decided_at', to_char(r.decided_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        ) order by r.seq desc)::text as redemptions
        from read_redemptions(asked.token_hash, null, 9223372036854775807, 20) as r
        where r.seq is not null
    ) as own
    order by asked.number
$$;

-- Compares every customer's cached balance with what it was found to be when everything was checked last and the
-- transfers since then; takes no lock on them. What it costs grows with the accounts and with what came since, not with
-- the ledger.
create function find_differing_accounts() returns void
language plpgsql set search_path = public, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
    -- Asked for beforehand, because with it the plan is made: what a check has found meanwhile only narrows it.
    v_from xid8 := (select coalesce(pg_snapshot_xmin(m.seen), '0') from verified_moment m);
begin
    delete from differing_account;
    -- One statement, for one moment of all: the balances, what they were found to be, and the transfers since.
    insert into differing_account (account, balance, transfers)
        select a.id, a.balance, coalesce(v.balance, 0) + coalesce(moved.amount, 0)
        from account a
        left join verified_balance v on v.account = a.id
        left join (
            select side.account, sum(side.amount) as amount
            from transfer t
            cross join verified_moment m
            cross join lateral (values (t.credit_account, t.amount), (t.debit_account, -t.amount)) as side (account, amount)
            where t.transaction_id >= v_from
                and (m.seen is null or not pg_visible_in_snapshot(t.transaction_id, m.seen))
            group by side.account
        ) as moved on moved.account = a.id
        where a.kind = 'customer' and a.balance <> coalesce(v.balance, 0) + coalesce(moved.amount, 0);
end
$$;

-- One step of synchronising the sessions with the newest reopening: the first compares all balances with their
-- transfers, each marks at most `p_limit` sessions whose account was found right. Differing accounts are looked at
-- again every two seconds. Gives the epoch, how many sessions were marked, how many still wait (those of differing
-- accounts among them), how many accounts differ with the first of them by name, and the seconds from the reopening until the last session was
-- synchronised (until now while some wait that can be); without a reopening all are zero.
create function synchronise_sessions(p_limit integer)
returns table (epoch bigint, synchronised bigint, waiting bigint, differing bigint, named text[], lag_s double precision)
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_reopening reopening;
    v_able bigint;
begin
    select r.* into v_reopening from reopening r join service_state s on s.epoch = r.epoch for update of r;
    if not found then
        return query select s.epoch, 0::bigint, 0::bigint, 0::bigint, '{}'::text[], 0::double precision from service_state s;
        return;
    end if;
    if v_reopening.checked_at is null
        -- A comparison in the future was made before the clock was set back.
        or v_reopening.checked_at not between clock_timestamp() - interval '2 seconds' and clock_timestamp()
            and exists (select from differing_account)
    then
        perform find_differing_accounts();
        update reopening r set checked_at = clock_timestamp() where r.epoch = v_reopening.epoch;
    end if;

    update session s set epoch = v_reopening.epoch
    where s.token_hash in (
        select w.token_hash from session w
        where w.epoch < v_reopening.epoch and w.expires_at > now()
            and not exists (select from differing_account d where d.account = w.account)
        limit p_limit for update skip locked);
    get diagnostics synchronised = row_count;

    select count(*), count(*) filter (where not exists (select from differing_account d where d.account = w.account))
        into waiting, v_able
        from session w where w.epoch < v_reopening.epoch and w.expires_at > now();
    if v_able > 0 then
        v_reopening.synchronised_at := null;
    elsif v_reopening.synchronised_at is null or synchronised > 0 then
        v_reopening.synchronised_at := clock_timestamp();
    end if;
    update reopening r set synchronised_at = v_reopening.synchronised_at
        where r.epoch = v_reopening.epoch and r.synchronised_at is distinct from v_reopening.synchronised_at;

    epoch := v_reopening.epoch;
    select count(*) into differing from differing_account;
    named := array(select d.account from differing_account d order by d.account limit 20);
    lag_s := extract(epoch from coalesce(v_reopening.synchronised_at, clock_timestamp()) - v_reopening.reopened_at);
    return next;
end
$$;

-- What is to be told of the synchronisation while its steps fail: as synchronise_sessions tells it, without doing any.
create function synchronisation_state()
returns table (epoch bigint, synchronised bigint, waiting bigint, differing bigint, named text[], lag_s double precision)
language sql stable security definer set search_path = public, pg_temp as $$
    select s.epoch, 0::bigint,
           (select count(*) from session w where w.epoch < s.epoch and w.expires_at > now()),
           (select count(*) from differing_account),
           array(select d.account from differing_account d order by d.account limit 20),
           coalesce(extract(epoch from coalesce(r.synchronised_at, clock_timestamp()) - r.reopened_at), 0)::double precision
    from service_state s left join reopening r on r.epoch = s.epoch
$$;

-- Removes at most `p_limit` each of the sessions and the limits of log-ins that are over; gives how many.
create function forget_expired(p_limit integer) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_sessions bigint;
    v_limits bigint;
begin
    delete from session s where s.token_hash in (
        select o.token_hash from session o where o.expires_at <= now() limit p_limit for update skip locked);
    get diagnostics v_sessions = row_count;
    delete from log_in_limit l where (l.email, l.origin) in (
        select o.email, o.origin from log_in_limit o
        where minute_is_over(o.begun_at) limit p_limit for update skip locked);
    get diagnostics v_limits = row_count;
    return v_sessions + v_limits;
end
$$;

grant execute on function
    begin_log_in(text, text, bytea), open_session(text, text, bytea, text, bytea, integer), close_session(bytea),
    read_views(bytea[])
    to savings_portal;
grant execute on function synchronise_sessions(integer), synchronisation_state(), forget_expired(integer)
    to savings_maintenance;
grant select on reopening, differing_account to savings_auditor;
