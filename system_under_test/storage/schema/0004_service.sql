-- What the whole service is doing, and who may act for it.

-- One row. Read within each request's own statement, so that no node can act on what was true a moment ago.
create table service_state (
    one boolean primary key default true check (one),
    -- Of the maintenance window under way; `open` when there is none.
    stage text not null default 'open' check (stage in ('open', 'draining', 'closed', 'verifying')),
    -- Whether the ledger is verified: the newest reconciliation passed, covered what it had to, and nothing failed since.
    gate text not null default 'open' check (gate in ('open', 'shut')),
    gate_reason text not null default '',
    -- Counts the reopenings; a session is synchronised when it has the current one.
    epoch bigint not null default 0,
    -- Counts the changes of stage: an order that no clock can turn round.
    stage_changes bigint not null default 0,
    changed_at timestamptz not null default clock_timestamp()
);
insert into service_state default values;

-- Whether dashboards and reads are served; intake and status always are.
create function reads_are_open() returns boolean
language sql stable set search_path = public, pg_temp as $$
    select s.stage in ('open', 'draining') and s.gate = 'open' from service_state s
$$;

-- Whether redemptions are settled now; what is queued meanwhile waits.
create function settling_is_on() returns boolean
language sql stable set search_path = public, pg_temp as $$
    select s.stage = 'open' and s.gate = 'open' from service_state s
$$;

-- One active process of several: the holder of an unexpired lease. The token grows with every change of holder, and
-- every effect names the token it acts under; a process that was frozen past its lease acts with an old one.
--
-- Times decide who tries, never whether an effect is one's own: whoever takes a lease early, because a clock was wrong,
-- takes it with a new token, under the lock of the row that every effect shares. So the wall clock may be set. Forward,
-- a lease ends early. Back, a lease that seems to last longer than it was given for is over (lease_is_free): a holder
-- that lives renews it or gets the next token, one that is dead keeps the others waiting for one lease's length, not for
-- as long as the clock was set back.
create table lease (
    name text primary key,
    holder text not null,
    token bigint not null,
    lasts interval not null,
    expires_at timestamptz not null
);
insert into lease (name, holder, token, lasts, expires_at)
    select name, '', 0, '0', '-infinity' from unnest(array['accrual', 'settlement']) as named (name);

-- Whether another than its holder may take the lease.
create function lease_is_free(p_lease lease) returns boolean
language sql volatile set search_path = public, pg_temp as $$
    select p_lease.expires_at not between clock_timestamp() and clock_timestamp() + p_lease.lasts
$$;

-- A lease is for the role of its name: accrual can never settle.
create function refuse_foreign_lease(p_name text) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    if session_user not in ('savings_' || p_name, current_user) then
        raise exception 'the lease % is not for %', p_name, session_user using errcode = 'insufficient_privilege';
    end if;
end
$$;

-- Takes or renews a lease for `p_seconds`; gives its token, null while another holds it.
create function take_lease(p_name text, p_holder text, p_seconds double precision) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_token bigint;
begin
    perform refuse_foreign_lease(p_name);
    update lease
    set holder = p_holder,
        token = case when holder = p_holder and expires_at > clock_timestamp() then token else token + 1 end,
        lasts = make_interval(secs => p_seconds),
        expires_at = clock_timestamp() + make_interval(secs => p_seconds)
    where name = p_name and (holder = p_holder or lease_is_free(lease))
    returning token into v_token;
    return v_token;
end
$$;

-- Gives a lease back at once, so that a planned stop costs no waiting.
create function release_lease(p_name text, p_token bigint) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform refuse_foreign_lease(p_name);
    update lease set expires_at = '-infinity' where name = p_name and token = p_token;
end
$$;

-- Raises SV001 unless `p_token` is in force; it stays in force until the transaction ends, because nobody can take the
-- lease while its row is locked.
create function require_lease(p_name text, p_token bigint) returns void
language plpgsql set search_path = public, pg_temp as $$
begin
    perform from lease l where l.name = p_name and l.token = p_token and l.expires_at > clock_timestamp() for share;
    if not found then
        raise exception 'fenced: token % of the lease % is no longer in force', p_token, p_name using errcode = 'SV001';
    end if;
end
$$;
