-- Hourly interest. For each business hour [h, h + 1 hour) that is over, in order: a snapshot of every customer's
-- account with the balance as of the hour's end, the whole units it earned, and the remainder that is carried on.
--
--     begin      one row in accrual_hour, committed by itself. From then on nothing is dated before the hour's end
--                (business_now) and no account is opened in it: which accounts and transfers count is settled.
--     chunk      the next accounts in order of their ids: snapshot, transfer and balance in one transaction. What is
--                done is found from the snapshots themselves, so that any process can go on where another ended.
--     finish     with the chunk that finds fewer accounts than it might have taken.
--
-- Compounding hourly, Act/365F: an hour is 1/8,760 of a year, in leap years too. Business time is UTC: every hour is as
-- long as any other. An account earns interest for the whole of the hour in which it was opened, on what it holds at
-- the end of it, as in every other hour.

-- Changes take effect at hour edges only.
create table interest_rate (
    from_hour timestamptz primary key check (from_hour = date_trunc('hour', from_hour, 'UTC')),
    -- Parts per billion a year.
    rate_ppb bigint not null check (rate_ppb between 0 and 1000000000)
);

create table accrual_snapshot (
    hour timestamptz not null,
    account text not null,
    -- As of the hour's end, this hour's interest not included.
    balance bigint not null,
    -- Whole units, credited by a transfer dated with the hour's end; none where there are none.
    interest bigint not null check (interest >= 0),
    -- What was earned beyond that, in parts of 1 / (8,760 * 10^9) of a unit.
    remainder bigint not null check (remainder >= 0 and remainder < 8760000000000),
    primary key (hour, account)
);

-- One hour at a time: the balance as of an hour's end contains the interest of all hours before it.
create unique index accrual_hour_under_way on accrual_hour ((true)) where finished_at is null;

create trigger accrual_snapshot_is_append_only before update or delete or truncate on accrual_snapshot
    for each statement execute function refuse_change();
create trigger accrual_hour_is_permanent before delete or truncate on accrual_hour
    for each statement execute function refuse_change();

-- The turn is shared by whoever opens accounts or changes rates, and taken alone by whoever begins an hour: what was dated
-- before the hour's end is committed, and visible to all of its chunks, before the first of them.
create function await_accrual_hour() returns trigger
language plpgsql set search_path = public, pg_temp as $$
begin
    perform take_turn('accrual_hour', p_shared => true);
    return null;
end
$$;

create trigger account_opening_awaits_the_hour before insert on account
    for each statement execute function await_accrual_hour();
create trigger a_rate_awaits_the_hour before insert or update or delete on interest_rate
    for each statement execute function await_accrual_hour();

create function guard_rate() returns trigger
language plpgsql set search_path = public, pg_temp as $$
begin
    if exists (select from accrual_hour h where h.hour >= old.from_hour or h.hour >= new.from_hour) then
        raise exception '% of the rate from % is refused: that hour has been begun',
            tg_op, coalesce(new.from_hour, old.from_hour)
            using errcode = 'restrict_violation', hint = 'Let the new rate begin with an hour that is not over yet.';
    end if;
    return coalesce(new, old);
end
$$;

create trigger rates_of_the_past_stay before insert or update or delete on interest_rate
    for each row execute function guard_rate();
create trigger rates_are_not_truncated before truncate on interest_rate
    for each statement execute function refuse_change();

-- What a balance earns in one hour. In numeric: the product exceeds 64 bits from some 2 * 10^11 units on. A balance as
-- of an hour's end can be below zero where the wall clock was set back across that end before the hour was begun; it
-- earns nothing then.
create function hourly_interest(p_balance bigint, p_rate_ppb bigint, p_remainder bigint)
returns table (interest bigint, remainder bigint)
language sql immutable as $$
    select div(e.earned, 8760000000000)::bigint, mod(e.earned, 8760000000000)::bigint
    from (select greatest(p_balance, 0)::numeric * p_rate_ppb + p_remainder as earned) as e
$$;

-- The hour after the newest one begun; at first the one in which business time began.
create function next_accrual_hour() returns timestamptz
language sql volatile set search_path = public, pg_temp as $$
    select coalesce(
        (select max(h.hour) + interval '1 hour' from accrual_hour h),
        (select date_trunc('hour', c.business, 'UTC') from business_clock c order by c.wall limit 1))
$$;

-- Begins the next hour; gives the one that is begun, null where none is over.
create function begin_accrual_hour(p_token bigint) returns timestamptz
language plpgsql set search_path = public, pg_temp as $$
declare
    v_hour timestamptz := next_accrual_hour();
begin
    if business_now() >= v_hour + interval '1 hour' then
        perform take_turn('accrual_hour');
        perform require_lease('accrual', p_token);
        -- Another may have begun it meanwhile, or the hour before it while we looked for what there is to do.
        if v_hour = next_accrual_hour()
            and not exists (select from accrual_hour h where h.finished_at is null) then
            insert into accrual_hour (hour, rate_ppb) values (
                v_hour,
                (select r.rate_ppb from interest_rate r where r.from_hour <= v_hour order by r.from_hour desc limit 1));
        end if;
        return (select max(h.hour) from accrual_hour h);
    end if;
    return null;
end
$$;

-- The next accounts of an hour that has been begun; `done` when there are no more. Planned anew each time: a plan for
-- any hour would read all transfers for the few since this one.
create function accrue_chunk(
    p_token bigint, p_hour timestamptz, p_limit integer, out accounts integer, out credited bigint, out done boolean)
language plpgsql set search_path = public, pg_temp set plan_cache_mode = force_custom_plan as $$
declare
    v_end timestamptz := p_hour + interval '1 hour';
    v_rate bigint;
    v_after text;
    v_last text;
begin
    -- One chunk at a time, also for a process that got no answer and asks again while its first try goes on.
    select h.rate_ppb into strict v_rate from accrual_hour h where h.hour = p_hour for no key update;
    select coalesce(max(s.account), '') into v_after from accrual_snapshot s where s.hour = p_hour;

    -- In a statement of its own: what comes after it sees all that was committed before the locks were given.
    select coalesce(max(locked.id), v_after), count(*) into v_last, accounts
    from (
        select a.id from account a
        where a.kind = 'customer' and a.id > v_after and a.opened_business_at < v_end
        order by a.id limit p_limit
        for no key update
    ) as locked;
    -- After the waiting, which the lease may not have survived.
    perform require_lease('accrual', p_token);

    -- Gathered by grouping: how many rows each part has changes with every hour, and no plan made for a join is right
    -- for all of them.
    with gathered as (
        select a.id as account, a.wallet, a.balance, 0 as carried from account a
        where a.kind = 'customer' and a.id > v_after and a.id <= v_last and a.opened_business_at < v_end
        union all
        select s.account, null, 0, s.remainder from accrual_snapshot s
        where s.hour = p_hour - interval '1 hour' and s.account > v_after and s.account <= v_last
        union all
        select t.credit_account, null, -t.amount, 0 from transfer t
        where t.business_at >= v_end and t.kind <> 'interest' and t.credit_account > v_after and t.credit_account <= v_last
        union all
        select t.debit_account, null, t.amount, 0 from transfer t
        where t.business_at >= v_end and t.kind <> 'interest' and t.debit_account > v_after and t.debit_account <= v_last
    ), earning as materialized (
        select held.account, held.wallet, held.balance, earned.interest, earned.remainder
        from (
            select g.account, max(g.wallet) as wallet, sum(g.balance)::bigint as balance, max(g.carried) as carried
            from gathered g group by g.account having max(g.wallet) is not null
        ) as held
        cross join lateral hourly_interest(held.balance, v_rate, held.carried) as earned
    ), noted as (
        insert into accrual_snapshot (hour, account, balance, interest, remainder)
        select p_hour, e.account, e.balance, e.interest, e.remainder from earning e order by e.account
    ), paid as (
        insert into transfer (kind, debit_account, credit_account, amount, business_at)
        select 'interest', 'interest-' || e.wallet, e.account, e.interest, v_end
        from earning e where e.interest > 0
    )
    select coalesce(sum(e.interest), 0)::bigint into credited from earning e;

    done := accounts < p_limit;
    update accrual_hour h
    set accounts = h.accounts + accrue_chunk.accounts,
        credited = h.credited + accrue_chunk.credited,
        finished_at = case when done then coalesce(h.finished_at, clock_timestamp()) end
    where h.hour = p_hour;
end
$$;

-- Does the next thing that there is to do, and says what it was:
--   begun      `hour` was begun, here or by another at this moment
--   accrued    `accounts` more of `hour` were credited `credited` units together, `took_s` seconds after its begin
--   finished   the same, and they were the last ones
--   waiting    `hour` is not over; it will be in `took_s` seconds of wall time, as the clock runs now
-- A wait for one account ends after a while, because many are locked meanwhile: SQLSTATE 55P03, nothing done.
create function accrue_step(p_token bigint, p_limit integer)
returns table (step text, hour timestamptz, accounts integer, credited bigint, took_s double precision)
language plpgsql security definer set search_path = public, pg_temp set lock_timeout = '250ms' as $$
declare
    v_started_at timestamptz;
begin
    select h.hour, h.started_at into accrue_step.hour, v_started_at from accrual_hour h where h.finished_at is null;
    if found then
        select case when c.done then 'finished' else 'accrued' end, c.accounts, c.credited
            into step, accrue_step.accounts, accrue_step.credited
            from accrue_chunk(p_token, accrue_step.hour, least(greatest(p_limit, 1), 5000)) as c;
        took_s := extract(epoch from clock_timestamp() - v_started_at);
    else
        accrue_step.hour := begin_accrual_hour(p_token);
        step := case when accrue_step.hour is null then 'waiting' else 'begun' end;
        if step = 'waiting' then
            accrue_step.hour := next_accrual_hour();
            took_s := extract(epoch from wall_time(accrue_step.hour + interval '1 hour') - clock_timestamp());
        end if;
    end if;
    return next;
end
$$;

-- Up to when interest has been credited, how many hours that are over are missing, and when in wall time the newest
-- complete hour was completed.
create function accrual_progress(
    out credited_until timestamptz, out lag_hours bigint, out finished_at timestamptz)
language sql stable security definer set search_path = public, pg_temp as $$
    select
        p.until,
        greatest(floor(extract(epoch from business_now() - p.until) / 3600)::bigint, 0),
        (select h.finished_at from accrual_hour h where h.finished_at is not null order by h.hour desc limit 1)
    from (
        select coalesce((select h.hour from accrual_hour h where h.finished_at is null), next_accrual_hour()) as until
    ) as p
$$;

grant execute on function accrue_step(bigint, integer), accrual_progress() to savings_accrual;
grant select on accrual_snapshot, interest_rate to savings_auditor;
