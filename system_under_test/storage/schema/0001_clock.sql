-- Business time: what customers and the calendar go by. It is piecewise linear in wall time and never runs backwards;
-- an operator changes it by adding a piece that begins now.

-- What is done by one after the other, whoever does it. Its turn is a row's lock, kept until the transaction ends: only
-- the owner's functions can lock these rows, whereas the keys of advisory locks can be taken, and kept, by any role.
create table turn (name text primary key);
insert into turn (name) values
    ('business_clock'), ('accrual_hour'), ('maintenance_window'), ('sealed_batch'), ('reconciliation');

-- Waits for the turn and takes it: as the only one, or, `p_shared`, beside others who share it.
create function take_turn(p_name text, p_shared boolean default false) returns void
language plpgsql volatile set search_path = public, pg_temp as $$
begin
    if p_shared then
        perform from turn t where t.name = p_name for key share;
    else
        perform from turn t where t.name = p_name for update;
    end if;
    if not found then
        raise exception 'there is no turn called %', p_name using errcode = 'no_data_found';
    end if;
end
$$;

create table business_clock (
    wall timestamptz primary key,
    business timestamptz not null,
    -- Business seconds in a wall second.
    rate double precision not null check (rate > 0 and rate <= 1000000)
);

-- The hours whose interest has been begun. Here, because no transfer may be dated before the end of such an hour.
create table accrual_hour (
    hour timestamptz primary key check (hour = date_trunc('hour', hour, 'UTC')),
    -- Of all its chunks, whatever is decided about rates meanwhile.
    rate_ppb bigint not null,
    started_at timestamptz not null default clock_timestamp(),
    finished_at timestamptz,
    accounts bigint not null default 0,
    credited bigint not null default 0
);

-- The business time of a moment of wall time; before the first piece it stands still.
create function business_time(p_wall timestamptz) returns timestamptz
language sql stable security definer set search_path = public, pg_temp as $$
    select c.business + greatest(p_wall - c.wall, interval '0') * c.rate
    from business_clock c
    order by c.wall <= p_wall desc, case when c.wall <= p_wall then c.wall end desc, c.wall
    limit 1
$$;

-- When that business time will be (or was), on the clock as it runs now.
create function wall_time(p_business timestamptz) returns timestamptz
language sql stable security definer set search_path = public, pg_temp as $$
    select c.wall + (p_business - c.business) / c.rate from business_clock c order by c.wall desc limit 1
$$;

-- What a transfer is dated with: now, and never before the end of an hour whose interest has been begun, or a wall
-- clock that was set back would put money into an hour that is over.
create function business_now() returns timestamptz
language sql volatile security definer set search_path = public, pg_temp as $$
    select greatest(
        business_time(clock_timestamp()), (select max(h.hour) + interval '1 hour' from accrual_hour h))
$$;

-- Lets business time go on from `p_business` at `p_rate` (each as it is when null); gives the business time from which it goes on.
create function set_business_clock(p_business timestamptz, p_rate double precision) returns timestamptz
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_wall timestamptz;
    v_last business_clock;
    v_now timestamptz;
begin
    perform take_turn('business_clock');
    select * into v_last from business_clock order by wall desc limit 1;
    v_wall := greatest(clock_timestamp(), v_last.wall + interval '1 microsecond');
    v_now := coalesce(business_time(v_wall), v_wall);
    if p_business < v_now then
        raise exception 'business time is %: it cannot go back to %', v_now, p_business
            using errcode = 'invalid_parameter_value', hint = 'Only a time that has not been yet can be chosen.';
    end if;
    insert into business_clock (wall, business, rate)
        values (v_wall, coalesce(p_business, v_now), coalesce(p_rate, v_last.rate, 1));
    return coalesce(p_business, v_now);
end
$$;
