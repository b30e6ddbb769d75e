-- Notices to customers, in an outbox: planned in the transaction that changes the plan, sent afterwards.
--
--     waiting -> claimed -> sent
--        ^          |-----> undeliverable   the provider refuses this address
--        '----------'                       refused, unanswered, given back, or the claim ran out
--     waiting, claimed -> withdrawn         the plan was changed or cancelled before the notice was sent
--
-- A notice is sent at least once, always under the same Message-ID; whoever receives it twice can keep one.

-- One row for each change of plan. A copy, because the window goes on changing, and a notice sent late says what
-- was planned when it was planned.
create table notice_plan (
    window_id bigint not null,
    revision integer not null check (revision > 0),
    kind text not null check (kind in ('planned', 'cancelled')),
    planned_start timestamptz not null,
    planned_end timestamptz not null,
    reason text not null,
    planned_at timestamptz not null default clock_timestamp(),
    -- Counted along with every change, so that asking how far it is costs the same for any number of customers.
    total bigint not null default 0,
    sent bigint not null default 0,
    withdrawn bigint not null default 0,
    undeliverable bigint not null default 0,
    last_sent_business_at timestamptz,
    primary key (window_id, revision),
    constraint counts_add_up check (
        sent >= 0 and withdrawn >= 0 and undeliverable >= 0 and sent + withdrawn + undeliverable <= total)
);

-- No foreign keys: the rows are made here alone, from the tables that they would refer to, and a check of each would
-- cost more than the insert.
create table notice (
    id bigint generated always as identity primary key,
    window_id bigint not null,
    revision integer not null,
    account text not null,
    channel text not null check (channel in ('email')),
    address text not null,
    state text not null default 'waiting'
        check (state in ('waiting', 'claimed', 'sent', 'withdrawn', 'undeliverable')),
    -- Wall time from which it may be tried; of a claimed one, when the claim runs out.
    due_at timestamptz not null default clock_timestamp(),
    -- How often it was claimed; the current number is the claim's token.
    claims integer not null default 0,
    failures integer not null default 0,
    -- What the last failure was.
    problem text not null default '',
    -- A try had no answer: the customer may have it.
    perhaps_sent boolean not null default false,
    sent_at timestamptz,
    sent_business_at timestamptz,
    constraint one_notice_each unique (window_id, account, channel, revision),
    constraint sent_has_its_time check ((state = 'sent') = (sent_at is not null and sent_business_at is not null))
);
create index notice_due on notice (channel, due_at, id) where state in ('waiting', 'claimed');

-- What may be claimed once it is due. A customer's notice waits while one of an earlier revision may be on its way: a
-- newer plan is never overtaken by an older one.
create view notice_to_send as
    select n.* from notice n
    where n.state in ('waiting', 'claimed')
      and not exists (
          select from notice o
          where o.window_id = n.window_id and o.account = n.account and o.channel = n.channel
            and o.revision < n.revision and o.state = 'withdrawn' and o.perhaps_sent and o.due_at > now());

-- Who is told, and where: one row for each customer and channel. A further channel is one more branch here, one more
-- word in the check of `notice.channel`, and one module of the notifier.
create view notice_recipient as
    select 'email'::text as channel, c.account, c.email as address from customer c;

-- Changes of one plan's counters take turns here, and in this order, so that they cannot wait for each other.
create function lock_notice_plans(p_window bigint) returns void
language sql volatile set search_path = public, pg_temp as $$
    select from notice_plan p where p.window_id = p_window order by p.revision for no key update
$$;

create function lock_plans_of_notices(p_ids bigint[]) returns void
language sql volatile set search_path = public, pg_temp as $$
    select from notice_plan p
    where (p.window_id, p.revision) in (select n.window_id, n.revision from notice n where n.id = any (p_ids))
    order by p.window_id, p.revision for no key update
$$;

-- Withdraws what is not sent of the window's notices. One that is claimed may be on its way at this moment.
create function withdraw_notices(p_window bigint) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    perform lock_notice_plans(p_window);
    with gone as (
        update notice n
        set state = 'withdrawn',
            perhaps_sent = n.perhaps_sent or n.state = 'claimed',
            due_at = case when n.state = 'claimed' then n.due_at else now() end
        where n.window_id = p_window and n.state in ('waiting', 'claimed')
        returning n.revision
    )
    update notice_plan p set withdrawn = p.withdrawn + g.notices
    from (select gone.revision, count(*) as notices from gone group by gone.revision) g
    where p.window_id = p_window and p.revision = g.revision;
end
$$;

-- Plans a notice of this revision for every customer, and withdraws what is not sent of the revisions before; to be
-- called in the transaction that schedules or moves the window. Gives the number of notices; asked again it gives
-- the same and changes nothing.
create function plan_notices(p_window bigint, p_revision integer) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_total bigint;
begin
    select p.total into v_total
        from notice_plan p where p.window_id = p_window and p.revision = p_revision and p.kind = 'planned';
    if found then
        return v_total;
    end if;
    perform from notice_plan p where p.window_id = p_window and p.revision >= p_revision;
    if found then
        raise exception 'notices of window %, revision % come too late: a later change of plan has its notices already',
            p_window, p_revision using errcode = 'invalid_parameter_value';
    end if;
    perform withdraw_notices(p_window);
    insert into notice_plan (window_id, revision, kind, planned_start, planned_end, reason)
        select w.id, w.revision, 'planned', w.planned_start, w.planned_end, w.reason
        from maintenance_window w where w.id = p_window and w.revision = p_revision;
    if not found then
        raise exception 'there is no window % of revision %', p_window, p_revision
            using errcode = 'invalid_parameter_value';
    end if;
    insert into notice (window_id, revision, account, channel, address)
        select p_window, p_revision, r.account, r.channel, r.address from notice_recipient r order by r.account;
    get diagnostics v_total = row_count;
    update notice_plan p set total = v_total where p.window_id = p_window and p.revision = p_revision;
    return v_total;
end
$$;

-- Withdraws what is not sent, and plans a notice of the cancellation for every customer who has, or may have, one of
-- the window's notices; to be called in the transaction that cancels the window, after it has got its new revision.
-- Gives the number of notices; asked again it gives the same and changes nothing.
create function cancel_notices(p_window bigint) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_last notice_plan;
    v_revision integer;
    v_total bigint;
begin
    perform withdraw_notices(p_window);
    select * into v_last from notice_plan p where p.window_id = p_window order by p.revision desc limit 1;
    if not found then
        return 0;
    elsif v_last.kind = 'cancelled' then
        return v_last.total;
    end if;
    insert into notice_plan (window_id, revision, kind, planned_start, planned_end, reason)
        select w.id, w.revision, 'cancelled', w.planned_start, w.planned_end, w.reason
        from maintenance_window w where w.id = p_window and w.revision > v_last.revision
        returning revision into v_revision;
    if not found then
        raise exception 'window % has no revision after %: a cancellation is a new one', p_window, v_last.revision
            using errcode = 'invalid_parameter_value';
    end if;
    insert into notice (window_id, revision, account, channel, address)
        select p_window, v_revision, r.account, r.channel, r.address
        from notice_recipient r
        where exists (
            select from notice n
            where n.window_id = p_window and n.account = r.account and n.channel = r.channel
              and (n.state = 'sent' or n.perhaps_sent))
        order by r.account;
    get diagnostics v_total = row_count;
    update notice_plan p set total = v_total where p.window_id = p_window and p.revision = v_revision;
    return v_total;
end
$$;

-- How far the notices of a revision are: all of them are sent when `sent = total`. An address that its provider
-- refuses for good must not keep the service from being maintained: up to one in a hundred such notices, and one, are
-- left out of `total`; but never all of them.
create function notice_progress(p_window bigint, p_revision integer)
returns table (total bigint, sent bigint, last_sent_business_at timestamptz)
language sql stable security definer set search_path = public, pg_temp as $$
    select p.total - least(p.undeliverable, p.total / 100 + 1, greatest(p.total - 1, 0)), p.sent, p.last_sent_business_at
    from notice_plan p where p.window_id = p_window and p.revision = p_revision
$$;

-- How many notices are due now, counted up to `p_limit`.
create function due_notices(p_channel text, p_limit integer) returns bigint
language sql stable security definer set search_path = public, pg_temp as $$
    select count(*) from (
        select from notice_to_send n where n.channel = p_channel and n.due_at <= now() limit p_limit
    ) as due
$$;

-- Claims up to `p_limit` notices that are due, the longest due first; a claim runs out after `p_seconds` of wall time,
-- so that those of a notifier that died come back.
create function claim_notices(p_channel text, p_limit integer, p_seconds double precision)
returns table (
    id bigint, claim integer, failures integer, account text, address text,
    window_id bigint, revision integer, kind text, planned_start timestamptz, planned_end timestamptz, reason text)
language sql volatile security definer set search_path = public, pg_temp as $$
    with due as materialized (
        select n.id
        from notice_to_send n
        where n.channel = p_channel and n.due_at <= now()
        order by n.due_at, n.id
        limit p_limit
        for no key update of n skip locked
    ), claimed as (
        update notice n
        set state = 'claimed',
            claims = n.claims + 1,
            -- Still claimed: whoever had it died, or was frozen, before saying what became of it.
            perhaps_sent = n.perhaps_sent or n.state = 'claimed',
            due_at = clock_timestamp() + make_interval(secs => p_seconds)
        from due where n.id = due.id
        returning n.*
    )
    select c.id, c.claims, c.failures, c.account, c.address,
           p.window_id, p.revision, p.kind, p.planned_start, p.planned_end, p.reason
    from claimed c join notice_plan p on p.window_id = c.window_id and p.revision = c.revision
    order by c.id
$$;

-- Records that the provider took these notices, whoever has claimed them by now: sent is sent, withdrawn or not.
-- Gives how many were not recorded as sent before.
create function mark_notices_sent(p_ids bigint[]) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_business timestamptz;
    v_marked bigint;
begin
    perform lock_plans_of_notices(p_ids);
    v_business := business_now();
    with marked as (
        update notice n
        set state = 'sent', sent_at = clock_timestamp(), sent_business_at = v_business, due_at = least(n.due_at, now())
        where n.id = any (p_ids) and n.state <> 'sent'
        returning new.window_id, new.revision, old.state as was
    ), counted as (
        update notice_plan p
        set sent = p.sent + m.notices,
            withdrawn = p.withdrawn - m.withdrawn,
            undeliverable = p.undeliverable - m.undeliverable,
            last_sent_business_at = greatest(p.last_sent_business_at, v_business)
        from (
            select marked.window_id, marked.revision, count(*) as notices,
                   count(*) filter (where marked.was = 'withdrawn') as withdrawn,
                   count(*) filter (where marked.was = 'undeliverable') as undeliverable
            from marked group by marked.window_id, marked.revision
        ) m
        where p.window_id = m.window_id and p.revision = m.revision
    )
    select count(*) into v_marked from marked;
    return v_marked;
end
$$;

-- Records what became of claimed notices that were not sent, or perhaps were. Outcomes:
--   released        not tried; due again at once
--   refused         certainly not sent; due again after the wait
--   unknown         tried, no answer; due again after the wait
--   undeliverable   the provider refuses the address; not tried again
-- A claim that ran out meanwhile is not ours to speak for. Gives how many were recorded.
create function mark_notices_failed(
    p_ids bigint[], p_claims integer[], p_outcomes text[], p_problems text[], p_waits_s double precision[])
returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_marked bigint;
begin
    perform from unnest(p_outcomes) as o (outcome)
        where o.outcome is null or o.outcome not in ('released', 'refused', 'unknown', 'undeliverable');
    if found then
        raise exception 'expected released, refused, unknown or undeliverable, got %', p_outcomes
            using errcode = 'invalid_parameter_value';
    end if;
    perform lock_plans_of_notices(p_ids);
    with marked as (
        update notice n
        set state = case when n.state = 'withdrawn' then 'withdrawn'
                         when f.outcome = 'undeliverable' then 'undeliverable'
                         else 'waiting' end,
            failures = n.failures + case when f.outcome = 'released' then 0 else 1 end,
            problem = case when f.outcome = 'released' then n.problem else f.problem end,
            perhaps_sent = n.perhaps_sent or f.outcome = 'unknown',
            due_at = case when n.state = 'withdrawn' then now()
                          else clock_timestamp() + make_interval(secs => f.wait_s) end
        from unnest(p_ids, p_claims, p_outcomes, p_problems, p_waits_s) as f (id, claim, outcome, problem, wait_s)
        where n.id = f.id and n.claims = f.claim and n.state in ('claimed', 'withdrawn')
        returning n.window_id, n.revision, n.state
    ), counted as (
        update notice_plan p set undeliverable = p.undeliverable + m.notices
        from (
            select marked.window_id, marked.revision, count(*) as notices
            from marked where marked.state = 'undeliverable' group by marked.window_id, marked.revision
        ) m
        where p.window_id = m.window_id and p.revision = m.revision
    )
    select count(*) into v_marked from marked;
    return v_marked;
end
$$;

-- Notices by state over all plans, and for how many seconds of wall time the oldest unsent one has been planned.
create function notice_states()
returns table (unsent bigint, sent bigint, withdrawn bigint, undeliverable bigint, oldest_unsent_s double precision)
language sql stable security definer set search_path = public, pg_temp as $$
    select coalesce(sum(p.total - p.sent - p.withdrawn - p.undeliverable), 0)::bigint,
           coalesce(sum(p.sent), 0)::bigint,
           coalesce(sum(p.withdrawn), 0)::bigint,
           coalesce(sum(p.undeliverable), 0)::bigint,
           coalesce(extract(epoch from now() - min(p.planned_at)
               filter (where p.total > p.sent + p.withdrawn + p.undeliverable)), 0)::double precision
    from notice_plan p
$$;

grant execute on function plan_notices(bigint, integer), cancel_notices(bigint), notice_progress(bigint, integer)
    to savings_maintenance;
grant execute on function
    due_notices(text, integer), claim_notices(text, integer, double precision), mark_notices_sent(bigint[]),
    mark_notices_failed(bigint[], integer[], text[], text[], double precision[]), notice_states()
    to savings_notifier;
grant select on notice_plan, notice to savings_auditor;
