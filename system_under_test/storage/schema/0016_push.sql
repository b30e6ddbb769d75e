-- Notices by web push: where a customer's device can be reached, and the outbox's second channel.

-- One subscription for each customer, the newest: so that "one notice for each channel" means one device.
create table push_subscription (
    account text primary key references account (id),
    -- Where its push service takes messages for it, its public key and its shared secret (RFC 8291), as browsers write
    -- them: base64url of 65 and of 16 bytes.
    endpoint text not null check (endpoint ~ '^https?://[!-~]+$' and length(endpoint) <= 1024),
    p256dh text not null check (p256dh ~ '^[A-Za-z0-9_-]{87}$'),
    auth text not null check (auth ~ '^[A-Za-z0-9_-]{22}$'),
    -- From when on the customer has been subscribed, with whatever device.
    since timestamptz not null default clock_timestamp()
);

-- The key by which push services know who sends (RFC 8292). Public: its private half never comes here.
create table push_key (
    one boolean primary key default true check (one),
    public_key text not null check (public_key ~ '^[A-Za-z0-9_-]{87}$'),
    published_at timestamptz not null default clock_timestamp()
);

alter table notice drop constraint notice_channel_check;
alter table notice add constraint notice_channel_check check (channel in ('email', 'push'));
-- How often the address of now was refused: a provider that failed otherwise says nothing about it.
alter table notice add column refusals integer not null default 0;
-- Those that have to be told apart when the progress of a plan is asked for: few.
create index notice_undeliverable on notice (window_id, revision, account)
    where state = 'undeliverable' and channel = 'push';

-- What the outbox keeps of a subscription: all that is needed to send.
create function push_address(p_subscription push_subscription) returns text
language sql immutable set search_path = public, pg_temp as $$
    select p_subscription.endpoint || ' ' || p_subscription.p256dh || ' ' || p_subscription.auth
$$;

create or replace view notice_recipient as
    select 'email'::text as channel, c.account, c.email as address from customer c
    union all
    select 'push'::text, s.account, push_address(s) from push_subscription s;

-- Whether there is such a session, and it has not expired.
create function is_session(p_token_hash bytea) returns boolean
language sql stable security definer set search_path = public, pg_temp as $$
    select account_of_session(p_token_hash) is not null
$$;

-- Keeps the session's own subscription, in place of the one before. Outcomes: stored, unauthenticated.
create function put_push_subscription(p_token_hash bytea, p_endpoint text, p_p256dh text, p_auth text) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_account text := account_of_session(p_token_hash);
begin
    if v_account is null then
        return 'unauthenticated';
    end if;
    insert into push_subscription as s (account, endpoint, p256dh, auth)
        values (v_account, p_endpoint, p_p256dh, p_auth)
        on conflict (account) do update
        set endpoint = excluded.endpoint, p256dh = excluded.p256dh, auth = excluded.auth
        where (s.endpoint, s.p256dh, s.auth) is distinct from (excluded.endpoint, excluded.p256dh, excluded.auth);
    return 'stored';
end
$$;

-- Forgets the session's own subscription, if there is one. Outcomes: removed, unauthenticated.
create function delete_push_subscription(p_token_hash bytea) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_account text := account_of_session(p_token_hash);
begin
    if v_account is null then
        return 'unauthenticated';
    end if;
    delete from push_subscription s where s.account = v_account;
    return 'removed';
end
$$;

-- The public key in force, null before there is one.
create function read_push_key() returns text
language sql stable security definer set search_path = public, pg_temp as $$
    select k.public_key from push_key k
$$;

-- Publishes a notifier's public key, unless there is one: subscriptions are made for it, and another is refused by the
-- push services. Gives the key in force.
create function publish_push_key(p_public_key text) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into push_key (public_key) values (p_public_key) on conflict do nothing;
    return (select k.public_key from push_key k);
end
$$;

-- As in 0010. Besides, a notice that is to wait for longer than any notice is asked to (5 minutes; 1 hour where it is
-- claimed) is due: the wall clock was set back since.
create or replace function due_notices(p_channel text, p_limit integer) returns bigint
language plpgsql volatile security definer set search_path = public, pg_temp as $$
begin
    update notice n set due_at = now()
        where n.id in (
            select m.id from notice m
            where m.channel = p_channel and m.state in ('waiting', 'claimed') and m.due_at > now() + interval '6 minutes'
              and (m.state = 'waiting' or m.due_at > now() + interval '61 minutes')
            for no key update skip locked);
    return (
        select count(*) from (
            select from notice_to_send n where n.channel = p_channel and n.due_at <= now() limit p_limit
        ) as due);
end
$$;

-- As in 0010, with a bound for the same reason.
create or replace view notice_to_send as
    select n.* from notice n
    where n.state in ('waiting', 'claimed')
      and not exists (
          select from notice o
          where o.window_id = n.window_id and o.account = n.account and o.channel = n.channel
            and o.revision < n.revision and o.state = 'withdrawn' and o.perhaps_sent
            and o.due_at > now() and o.due_at <= now() + interval '61 minutes');

-- As in 0010. Of a push notice the address is that of now: the customer may have another device since it was planned;
-- it is empty where there is none any more. `refusals` are those of this address.
drop function claim_notices(text, integer, double precision);
create function claim_notices(p_channel text, p_limit integer, p_seconds double precision)
returns table (
    id bigint, claim integer, failures integer, refusals integer, account text, address text,
    window_id bigint, revision integer, kind text, planned_start timestamptz, planned_end timestamptz, reason text)
language sql volatile security definer set search_path = public, pg_temp as $$
    with due as materialized (
        select n.id, n.account
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
            address = case when p_channel = 'push' then coalesce(push_address(s), '') else n.address end,
            refusals = case when p_channel = 'push' and n.address is distinct from push_address(s) then 0
                            else n.refusals end,
            due_at = clock_timestamp() + make_interval(secs => p_seconds)
        from due left join push_subscription s on p_channel = 'push' and s.account = due.account
        where n.id = due.id
        returning n.*
    )
    select c.id, c.claims, c.failures, c.refusals, c.account, c.address,
           p.window_id, p.revision, p.kind, p.planned_start, p.planned_end, p.reason
    from claimed c join notice_plan p on p.window_id = c.window_id and p.revision = c.revision
    order by c.id
$$;

-- As in 0010, with two outcomes more:
--   address         refused, and the address is the reason
--   gone            the push service takes nothing for this subscription any more; it is removed, and the notice
--                   undeliverable, but where the customer has another one by now: due again at once
create or replace function mark_notices_failed(
    p_ids bigint[], p_claims integer[], p_outcomes text[], p_problems text[], p_waits_s double precision[])
returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_marked bigint;
begin
    perform from unnest(p_outcomes) as o (outcome)
        where o.outcome is null or o.outcome not in ('released', 'refused', 'unknown', 'address', 'undeliverable', 'gone');
    if found then
        raise exception 'expected released, refused, unknown, address, undeliverable or gone, got %', p_outcomes
            using errcode = 'invalid_parameter_value';
    end if;
    perform lock_plans_of_notices(p_ids);
    delete from push_subscription s
        using unnest(p_ids, p_claims, p_outcomes) as f (id, claim, outcome), notice n
        where f.outcome = 'gone' and n.id = f.id and n.claims = f.claim and n.channel = 'push'
          and s.account = n.account and push_address(s) = n.address;
    with marked as (
        update notice n
        set state = case when n.state = 'withdrawn' then 'withdrawn'
                         when f.outcome = 'undeliverable' or f.outcome = 'gone' and not f.other then 'undeliverable'
                         else 'waiting' end,
            failures = n.failures + case when f.outcome = 'released' then 0 else 1 end,
            refusals = n.refusals + case when f.outcome = 'address' then 1 else 0 end,
            problem = case when f.outcome = 'released' then n.problem else f.problem end,
            perhaps_sent = n.perhaps_sent or f.outcome = 'unknown',
            due_at = case when n.state = 'withdrawn' or f.outcome = 'gone' then now()
                          else clock_timestamp() + make_interval(secs => f.wait_s) end
        from (
            select g.*, exists (
                select from notice m join push_subscription s on s.account = m.account
                where g.outcome = 'gone' and m.id = g.id) as other
            from unnest(p_ids, p_claims, p_outcomes, p_problems, p_waits_s) as g (id, claim, outcome, problem, wait_s)
        ) as f
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

-- As in 0010; besides, a customer who is no longer subscribed, or not since the plan was made, has no device that could
-- be told: such a push notice is left out of `total`, however many there are. The e-mail is there in any case.
create or replace function notice_progress(p_window bigint, p_revision integer)
returns table (total bigint, sent bigint, last_sent_business_at timestamptz)
language sql stable security definer set search_path = public, pg_temp as $$
    select reachable.total - least(reachable.undeliverable, reachable.total / 100 + 1, greatest(reachable.total - 1, 0)),
           p.sent, p.last_sent_business_at
    from notice_plan p
    cross join lateral (
        select count(*) as notices
        from notice n
        where n.window_id = p.window_id and n.revision = p.revision
          and n.state = 'undeliverable' and n.channel = 'push'
          and not exists (select from push_subscription s where s.account = n.account and s.since <= p.planned_at)
    ) as gone
    cross join lateral (
        select p.total - gone.notices as total, p.undeliverable - gone.notices as undeliverable
    ) as reachable
    where p.window_id = p_window and p.revision = p_revision
$$;

grant execute on function
    is_session(bytea), put_push_subscription(bytea, text, text, text), delete_push_subscription(bytea), read_push_key()
    to savings_portal;
grant execute on function publish_push_key(text), claim_notices(text, integer, double precision) to savings_notifier;
-- Who is to be told, and who was, not how: addresses, of which a device's holds its secret, are for the sender alone.
grant select (account, since) on push_subscription to savings_auditor;
revoke select on notice from savings_auditor;
grant select (
    id, window_id, revision, account, channel, state, due_at, claims, failures, refusals, problem, perhaps_sent, sent_at,
    sent_business_at) on notice to savings_auditor;
