-- Maintenance windows: the plan, where each window stands, and everything that ever became of it. The maintenance
-- process decides what is next; here it is carried out whole or not at all, together with the stage of the service.

create table maintenance_window (
    id bigint generated always as identity primary key,
    -- Every change adds one; whoever changes a window names the version it saw.
    version bigint not null default 1,
    -- Of the plan: what customers are told of. A move and a cancellation are new revisions.
    revision integer not null default 1,
    stage text not null default 'scheduled'
        check (stage in ('scheduled', 'noticed', 'draining', 'closed', 'verifying', 'open', 'cancelled')),
    planned_start timestamptz not null,
    planned_end timestamptz not null,
    -- When the service will be back as far as is known now; later than planned after an overrun.
    published_end timestamptz not null,
    -- Why the newest change; public.
    reason text not null,
    -- Wall time.
    entered_at timestamptz not null default clock_timestamp(),
    -- The transactions of portals and settlement that were under way when draining began.
    running_at_drain text[] not null default '{}',
    work_finished boolean not null default false,
    -- The newest transfer when verifying began, and the one that the verification which opened the service covers.
    verify_head bigint,
    verified_head bigint,
    constraint thirty_to_sixty_minutes
        check (planned_end - planned_start between interval '30 minutes' and interval '60 minutes'),
    constraint published_after_planned check (published_end >= planned_end),
    constraint opens_verified check (stage <> 'open' or verified_head >= verify_head),
    constraint windows_never_overlap exclude using gist (tstzrange(planned_start, planned_end) with &&)
        where (stage not in ('open', 'cancelled'))
);
create unique index one_window_at_a_time on maintenance_window ((true))
    where stage in ('draining', 'closed', 'verifying');

create table window_event (
    id bigint generated always as identity primary key,
    window_id bigint not null references maintenance_window (id),
    revision integer not null,
    change text not null check (change in (
        'scheduled', 'noticed', 'moved', 'cancelled', 'draining', 'closed', 'finished', 'verifying', 'overrun', 'opened')),
    stage text not null,
    planned_start timestamptz not null,
    planned_end timestamptz not null,
    published_end timestamptz not null,
    reason text not null,
    business_at timestamptz not null,
    recorded_at timestamptz not null default clock_timestamp()
);
create index window_event_of_window on window_event (window_id, id);

create function refuse_new_past() returns trigger language plpgsql as $$
begin
    raise exception '% on % is refused: what has been stays as it was', tg_op, tg_table_name
        using errcode = 'restrict_violation';
end
$$;
create trigger window_event_is_append_only before update or delete or truncate on window_event
    for each statement execute function refuse_new_past();
create trigger maintenance_window_is_permanent before delete or truncate on maintenance_window
    for each statement execute function refuse_new_past();

-- How fast a backlog is settled, for the times that customers are told. One row.
create table settlement_pace (
    one boolean primary key default true check (one),
    per_second double precision not null default 1000 check (per_second >= 1000),
    measured_at timestamptz not null default clock_timestamp()
);
insert into settlement_pace default values;

-- Which changes lead from where to where; a window can do nothing else.
create function is_window_change(p_from text, p_change text, p_to text) returns boolean
language sql immutable set search_path = public, pg_temp as $$
    select (p_from, p_change, p_to) in (
        ('scheduled', 'noticed', 'noticed'),
        ('scheduled', 'moved', 'scheduled'), ('noticed', 'moved', 'scheduled'),
        ('scheduled', 'cancelled', 'cancelled'), ('noticed', 'cancelled', 'cancelled'),
        ('noticed', 'draining', 'draining'),
        ('draining', 'closed', 'closed'),
        ('closed', 'finished', 'closed'),
        ('closed', 'verifying', 'verifying'),
        ('verifying', 'opened', 'open'),
        ('draining', 'overrun', 'draining'), ('closed', 'overrun', 'closed'), ('verifying', 'overrun', 'verifying'))
$$;

create function record_window_event(p_window maintenance_window, p_change text) returns void
language sql volatile set search_path = public, pg_temp as $$
    insert into window_event
        (window_id, revision, change, stage, planned_start, planned_end, published_end, reason, business_at)
        values (p_window.id, p_window.revision, p_change, p_window.stage, p_window.planned_start, p_window.planned_end,
                p_window.published_end, p_window.reason, business_now())
$$;

-- Carries out a change: the window, its history, the stage of the whole service, the notices of a new plan.
create function change_window(
    p_window maintenance_window, p_change text, p_stage text, p_start timestamptz, p_end timestamptz,
    p_published_end timestamptz, p_reason text, p_verified_head bigint default null)
returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_new_plan boolean := p_change in ('moved', 'cancelled');
    v_entered boolean := p_stage <> p_window.stage;
    v_after maintenance_window;
begin
    if not is_window_change(p_window.stage, p_change, p_stage) then
        raise exception 'window % is %: it cannot be % and then be %', p_window.id, p_window.stage, p_change, p_stage
            using errcode = 'invalid_parameter_value';
    end if;
    update maintenance_window w
    set version = w.version + 1,
        revision = w.revision + v_new_plan::integer,
        stage = p_stage,
        planned_start = p_start,
        planned_end = p_end,
        published_end = p_published_end,
        reason = p_reason,
        entered_at = case when v_entered or v_new_plan then clock_timestamp() else w.entered_at end,
        work_finished = w.work_finished or p_change = 'finished',
        running_at_drain = case when p_change = 'draining' then customers_transactions() else w.running_at_drain end,
        verify_head = case when p_change = 'verifying' then (select coalesce(max(t.seq), 0) from transfer t)
                           else w.verify_head end,
        verified_head = coalesce(p_verified_head, w.verified_head)
    where w.id = p_window.id
    returning * into strict v_after;
    perform record_window_event(v_after, p_change);
    if v_entered and p_stage in ('draining', 'closed', 'verifying', 'open') then
        update service_state s
        set stage = p_stage, epoch = s.epoch + (p_stage = 'open')::integer, stage_changes = s.stage_changes + 1,
            changed_at = clock_timestamp();
    end if;
    -- A window is for machines to be worked on: business time runs at a rate at which they can drain and be verified.
    if p_change = 'draining' and (select c.rate from business_clock c order by c.wall desc limit 1) > 60 then
        perform set_business_clock(null, 60);
    end if;
    if p_change = 'moved' then
        perform plan_notices(v_after.id, v_after.revision);
    elsif p_change = 'cancelled' then
        perform cancel_notices(v_after.id);
    end if;
end
$$;

-- The transactions under way of those who serve customers.
create function customers_transactions() returns text[]
language sql volatile set search_path = public, pg_temp as $$
    select coalesce(array_agg(l.virtualtransaction), '{}')
    from pg_locks l join pg_stat_activity a on a.pid = l.pid
    where l.locktype = 'virtualxid' and l.granted and l.virtualxid = l.virtualtransaction
      and a.usename in ('savings_portal', 'savings_settlement')
$$;

-- For the maintenance process, one row for each window that is to come or under way; notices are only counted when
-- asked for, because there may be many.
create function survey_windows(p_notices boolean)
returns table (
    id bigint, version bigint, revision integer, stage text, planned_start timestamptz, planned_end timestamptz,
    published_end timestamptz, entered_at timestamptz, work_finished boolean, verify_head bigint, drained boolean,
    notices_total bigint, notices_sent bigint, last_sent_at timestamptz, business_at timestamptz, wall_at timestamptz)
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    v_window maintenance_window;
begin
    for v_window in
        select * from maintenance_window w where w.stage not in ('open', 'cancelled') order by w.planned_start
    loop
        id := v_window.id;
        version := v_window.version;
        revision := v_window.revision;
        stage := v_window.stage;
        planned_start := v_window.planned_start;
        planned_end := v_window.planned_end;
        published_end := v_window.published_end;
        entered_at := v_window.entered_at;
        work_finished := v_window.work_finished;
        verify_head := v_window.verify_head;
        drained := v_window.stage = 'draining' and not v_window.running_at_drain && customers_transactions();
        notices_total := null;
        notices_sent := null;
        last_sent_at := null;
        if p_notices and v_window.stage = 'scheduled' then
            select p.total, p.sent, p.last_sent_business_at into notices_total, notices_sent, last_sent_at
            from notice_progress(v_window.id, v_window.revision) p;
        end if;
        business_at := business_now();
        wall_at := clock_timestamp();
        return next;
    end loop;
end
$$;

-- Carries out what the maintenance process decided about a window as it saw it. False, and nothing is done, when the
-- window has been changed since, when its new time is taken, or when it was to open and the ledger is not verified.
create function step_window(
    p_window bigint, p_version bigint, p_change text, p_stage text, p_start timestamptz, p_end timestamptz,
    p_published_end timestamptz, p_reason text, p_verified_head bigint)
returns boolean
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    v_window maintenance_window;
    v_stage_changes bigint;
begin
    perform take_turn('maintenance_window');
    select * into v_window from maintenance_window w where w.id = p_window and w.version = p_version;
    if not found then
        return false;
    end if;
    if p_stage = 'open' then
        -- Held until the end, so that no check that fails meanwhile is overlooked.
        select s.stage_changes into v_stage_changes from service_state s where s.gate = 'open' for update;
        -- The ledger was looked at since verifying began, whatever the clock has said since.
        if not found or p_verified_head is null or p_verified_head < v_window.verify_head or not exists (
            select from reconciliation r
            where r.passed and r."full" and r.head >= v_window.verify_head and r.stage_changes = v_stage_changes)
        then
            return false;
        end if;
    end if;
    perform change_window(
        v_window, p_change, p_stage, p_start, p_end, p_published_end, p_reason, p_verified_head);
    return true;
exception when exclusion_violation or unique_violation then
    return false;
end
$$;

-- Plans a window. Outcomes:
--   planned   `window_id` is the new window
--   too_soon  it would start before `starts_at`, the earliest that leaves time for the notices
--   taken     `window_id` is the window that has (a part of) this time, until `starts_at`
create function schedule_window(p_start timestamptz, p_minutes integer, p_reason text, p_lead interval)
returns table (outcome text, window_id bigint, starts_at timestamptz)
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    v_end timestamptz := p_start + make_interval(mins => p_minutes);
    v_after maintenance_window;
begin
    perform take_turn('maintenance_window');
    select t.outcome, t.window_id, t.starts_at into schedule_window.outcome, schedule_window.window_id, schedule_window.starts_at
    from check_window_time(null, p_start, v_end, p_lead) t;
    if outcome is null then
        insert into maintenance_window (planned_start, planned_end, published_end, reason)
            values (p_start, v_end, v_end, p_reason)
            returning * into strict v_after;
        perform record_window_event(v_after, 'scheduled');
        perform plan_notices(v_after.id, v_after.revision);
        outcome := 'planned';
        window_id := v_after.id;
    end if;
    return next;
end
$$;

-- What is against a window at that time; no row when nothing is.
create function check_window_time(p_window bigint, p_start timestamptz, p_end timestamptz, p_lead interval)
returns table (outcome text, window_id bigint, starts_at timestamptz)
language sql volatile set search_path = public, pg_temp as $$
    select 'too_soon', null::bigint, business_now() + p_lead where p_start < business_now() + p_lead
    union all
    (select 'taken', w.id, w.published_end
     from maintenance_window w
     where w.stage not in ('open', 'cancelled') and w.id is distinct from p_window
       and w.planned_start < p_end and p_start < w.published_end
     order by w.planned_start limit 1)
    limit 1
$$;

-- Moves a window that has not begun. Outcomes as of `schedule_window`, and:
--   unknown  there is no such window
--   begun    it is under way, over or cancelled
create function move_window(p_window bigint, p_start timestamptz, p_minutes integer, p_reason text, p_lead interval)
returns table (outcome text, window_id bigint, starts_at timestamptz)
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    v_window maintenance_window;
    v_end timestamptz;
begin
    perform take_turn('maintenance_window');
    select * into v_window from maintenance_window w where w.id = p_window;
    v_end := p_start + coalesce(make_interval(mins => p_minutes), v_window.planned_end - v_window.planned_start);
    if v_window.id is null or v_window.stage not in ('scheduled', 'noticed') then
        outcome := case when v_window.id is null then 'unknown' else 'begun' end;
        return next;
        return;
    end if;
    select t.outcome, t.window_id, t.starts_at into move_window.outcome, move_window.window_id, move_window.starts_at
    from check_window_time(p_window, p_start, v_end, p_lead) t;
    if outcome is null then
        perform change_window(v_window, 'moved', 'scheduled', p_start, v_end, v_end, p_reason);
        outcome := 'planned';
        window_id := p_window;
    end if;
    return next;
end
$$;

-- Cancels a window that has not begun: `done`, `unknown` or `begun`.
create function cancel_window(p_window bigint, p_reason text) returns text
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    v_window maintenance_window;
begin
    perform take_turn('maintenance_window');
    select * into v_window from maintenance_window w where w.id = p_window;
    if not found then
        return 'unknown';
    elsif v_window.stage not in ('scheduled', 'noticed') then
        return 'begun';
    end if;
    perform change_window(v_window, 'cancelled', 'cancelled', v_window.planned_start, v_window.planned_end,
                          v_window.published_end, p_reason);
    return 'done';
end
$$;

-- Says that the work of a closed window is finished, so that it goes on at once: `done`, `unknown` or `not_closed`.
create function finish_window_work(p_window bigint, p_reason text) returns text
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    v_window maintenance_window;
begin
    perform take_turn('maintenance_window');
    select * into v_window from maintenance_window w where w.id = p_window;
    if not found then
        return 'unknown';
    elsif v_window.stage <> 'closed' then
        return 'not_closed';
    end if;
    perform change_window(v_window, 'finished', 'closed', v_window.planned_start, v_window.planned_end,
                          v_window.published_end, p_reason);
    return 'done';
end
$$;

-- The newest windows by their time, each with everything that became of it, as JSON.
create function list_windows(p_limit integer)
returns table (
    id bigint, revision integer, stage text, planned_start timestamptz, planned_end timestamptz,
    published_end timestamptz, reason text, events json)
language sql stable security definer set search_path = public, pg_temp as $$
    select w.id, w.revision, w.stage, w.planned_start, w.planned_end, w.published_end, w.reason, history.events
    from maintenance_window w
    cross join lateral (
        select json_agg(json_build_object(
                   'change', e.change, 'revision', e.revision, 'stage', e.stage, 'starts_at', e.planned_start,
                   'ends_at', e.planned_end, 'expected_end', e.published_end, 'reason', e.reason,
                   'business_at', e.business_at, 'recorded_at', e.recorded_at) order by e.id) as events
        from (select * from window_event e where e.window_id = w.id order by e.id desc limit 100) as e
    ) as history
    order by w.planned_start desc, w.id desc
    limit p_limit
$$;

-- Business time and how fast it runs.
create function read_business_clock() returns table (business_at timestamptz, wall_at timestamptz, rate double precision)
language sql volatile security definer set search_path = public, pg_temp as $$
    select business_now(), clock_timestamp(), c.rate from business_clock c order by c.wall desc limit 1
$$;

-- Sets the business clock; a rate above 60 is refused while a window is under way: it would be over before machines
-- could drain and verify. `done`, `backwards` or `window_under_way`; and the business time it is now.
create function forward_business_clock(p_business timestamptz, p_rate double precision)
returns table (outcome text, business_at timestamptz)
language plpgsql volatile security definer set search_path = public, pg_temp as $$
begin
    perform take_turn('maintenance_window');
    if p_rate > 60 and exists (select from service_state s where s.stage <> 'open') then
        return query select 'window_under_way', business_now();
        return;
    end if;
    return query select 'done', set_business_clock(p_business, p_rate);
exception when invalid_parameter_value then
    return query select 'backwards', business_now();
end
$$;

-- Measures how fast redemptions are settled when there are many: the busiest second of the newest. A trickle says
-- nothing about that, hence the lower bound.
create function measure_settlement_pace() returns double precision
language plpgsql volatile security definer set search_path = public, pg_temp as $$
declare
    v_per_second double precision;
begin
    select max(second.settled) into v_per_second
    from (select count(*) as settled
          from (select o.decided_at from outcome o order by o.seq desc limit 20000) as newest
          group by date_trunc('second', newest.decided_at)) as second;
    update settlement_pace p
    set per_second = greatest(v_per_second, 1000), measured_at = clock_timestamp()
    returning p.per_second into v_per_second;
    return v_per_second;
end
$$;

-- When the redemption at this place of the queue will be settled, in wall time, as far as can be told: at once, or
-- after the window, at the pace of late. Null while the ledger is not verified and no window says when it will be.
create function expected_settlement(p_place bigint) returns timestamptz
language sql volatile security definer set search_path = public, pg_temp as $$
    select case
        when w.published_end is null and s.gate = 'shut' then null
        else greatest(clock_timestamp(), wall_time(w.published_end)) + make_interval(secs => p_place / p.per_second)
        end
    from service_state s
    cross join settlement_pace p
    left join maintenance_window w on w.stage in ('draining', 'closed', 'verifying')
$$;

-- What the public may know, in one row: the service, the window that is under way or else the next one, the clock.
create function public_status()
returns table (
    stage text, gate text, gate_reason text, epoch bigint, queue_length bigint, business_at timestamptz,
    rate double precision, window_id bigint, window_stage text, revision integer, planned_start timestamptz,
    planned_end timestamptz, published_end timestamptz, reason text)
language plpgsql volatile security definer set search_path = public, pg_temp as $$
begin
    return query
        select s.stage, s.gate, s.gate_reason, s.epoch, i.accepted - q.decided, c.business_at, c.rate,
               w.id, w.stage, w.revision, w.planned_start, w.planned_end, w.published_end, w.reason
        from service_state s
        cross join intake i
        cross join settlement q
        cross join read_business_clock() c
        left join lateral (
            select * from maintenance_window w
            where w.stage not in ('open', 'cancelled')
            order by w.stage in ('draining', 'closed', 'verifying') desc, w.planned_start
            limit 1
        ) as w on true;
end
$$;

grant execute on function
    survey_windows(boolean),
    step_window(bigint, bigint, text, text, timestamptz, timestamptz, timestamptz, text, bigint),
    schedule_window(timestamptz, integer, text, interval),
    move_window(bigint, timestamptz, integer, text, interval),
    cancel_window(bigint, text), finish_window_work(bigint, text), list_windows(integer),
    read_business_clock(), forward_business_clock(timestamptz, double precision), measure_settlement_pace()
    to savings_maintenance;
grant execute on function public_status(), list_windows(integer), expected_settlement(bigint) to savings_portal;
grant select on maintenance_window, window_event, settlement_pace to savings_auditor;
