-- Sealed batches and the record of the ledger's verification.
--
--     transfers --seal--> sealed batches, each with the hash of the one before
--                              |
--     all tables --check_...-> problems --record_reconciliation--> signed record, and with it the gate

-- Transfers that can no longer change, gathered in the order of (transaction, number): a batch holds those from its
-- beginning up to, not including, its end, and the next one begins there.
create table sealed_batch (
    number bigint primary key check (number > 0),
    from_transaction xid8 not null,
    from_seq bigint not null,
    to_transaction xid8 not null,
    to_seq bigint not null,
    transfers bigint not null check (transfers > 0),
    -- The highest number in it.
    last_seq bigint not null,
    -- The numbers in order, and the digests of those transfers one after the other, by which a changed one is named.
    seqs bigint[] not null,
    digests bytea not null,
    previous_hash bytea not null,
    hash bytea not null unique,
    sealed_at timestamptz not null default clock_timestamp()
);
-- Digests cannot be compressed.
alter table sealed_batch alter column digests set storage external;

create trigger sealed_batch_is_append_only before update or delete or truncate on sealed_batch
    for each statement execute function refuse_change();

-- What is hashed of a transfer: every column, in the binary form in which the database sends it, so that no setting
-- changes it and no two transfers share it.
create function transfer_digest(t transfer) returns bytea
language sql stable as $$
    select sha256(record_send(row(
        t.seq, t.kind, t.debit_account, t.credit_account, t.amount, t.key, t.redemption, t.payout,
        t.recorded_at, t.business_at, t.transaction_id)))
$$;

-- The transfers of a batch as they are now.
create function batch_content(p_from xid8, p_from_seq bigint, p_to xid8, p_to_seq bigint)
returns table (transfers bigint, last_seq bigint, seqs bigint[], digests bytea)
language sql stable as $$
    select count(*), max(t.seq), array_agg(t.seq order by t.seq),
           string_agg(transfer_digest(t), ''::bytea order by t.seq)
    from transfer t
    where (t.transaction_id, t.seq) >= (p_from, p_from_seq) and (t.transaction_id, t.seq) < (p_to, p_to_seq)
$$;

create function batch_hash(b sealed_batch) returns bytea
language sql stable as $$
    select sha256(b.previous_hash || record_send(row(
        b.number, b.from_transaction, b.from_seq, b.to_transaction, b.to_seq, b.transfers, b.last_seq, b.seqs, b.digests)))
$$;

-- What the first batch follows.
create function chain_beginning() returns bytea
language sql immutable as $$ select sha256('savings ledger, sealed batches, 1') $$;

-- Seals the next batch of at most `p_limit` transfers and gives their number, 0 when nothing is left.
--
-- Every transaction below a snapshot's xmin is over. So what is taken here is complete, and nothing will ever be added
-- to it, in whatever order transactions took their numbers and committed. What belongs to later ones, or to one that is
-- still open, waits for another batch.
create function seal(p_limit integer default 10000) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_new sealed_batch;
    v_over xid8;
begin
    -- Asked several times a second: no lock is written while there is nothing to do.
    select b.to_transaction, b.to_seq into v_new.from_transaction, v_new.from_seq
        from sealed_batch b order by b.number desc limit 1;
    perform from transfer t
        where (t.transaction_id, t.seq) >= (coalesce(v_new.from_transaction, '0'), coalesce(v_new.from_seq, 0)) limit 1;
    if not found then
        return 0;
    end if;
    -- In a statement of its own: the next one must see what another sealer has committed meanwhile.
    perform take_turn('sealed_batch');
    select b.number, b.to_transaction, b.to_seq, b.hash
        into v_new.number, v_new.from_transaction, v_new.from_seq, v_new.previous_hash
        from sealed_batch b order by b.number desc limit 1;
    v_new.number := coalesce(v_new.number, 0) + 1;
    v_new.from_transaction := coalesce(v_new.from_transaction, '0');
    v_new.from_seq := coalesce(v_new.from_seq, 0);
    v_new.previous_hash := coalesce(v_new.previous_hash, chain_beginning());
    v_over := pg_snapshot_xmin(pg_current_snapshot());
    -- A large transaction is sealed in several batches: it is over too.
    select t.transaction_id, t.seq into v_new.to_transaction, v_new.to_seq
        from transfer t
        where (t.transaction_id, t.seq) >= (v_new.from_transaction, v_new.from_seq) and t.transaction_id < v_over
        order by t.transaction_id, t.seq offset p_limit limit 1;
    if not found then
        v_new.to_transaction := v_over;
        v_new.to_seq := 0;
    end if;
    select c.transfers, c.last_seq, c.seqs, c.digests
        into v_new.transfers, v_new.last_seq, v_new.seqs, v_new.digests
        from batch_content(v_new.from_transaction, v_new.from_seq, v_new.to_transaction, v_new.to_seq) c;
    if v_new.transfers = 0 then
        return 0;
    end if;
    v_new.hash := batch_hash(v_new);
    v_new.sealed_at := clock_timestamp();
    insert into sealed_batch select v_new.*;
    return v_new.transfers;
end
$$;

-- The checks. Each gives the rows that are wrong: the table, the row's key, what is expected and what is there. They are
-- called within one repeatable-read transaction, so that all judge the same moment. Those that look at accounts take
-- all of them, or those that transfers from (p_from, p_from_seq) on have touched.

-- The chain, from batch `p_batch` to `p_last`: each follows the one before, each is what its hash says, and the
-- transfers are what they were when they were sealed.
create function check_chain(p_batch bigint, p_last bigint default 9223372036854775807)
returns table (place text, key text, expected text, found text)
language plpgsql stable security definer set search_path = public, pg_temp as $$
declare
    v_batch sealed_batch;
    v_end sealed_batch;
    v_now record;
begin
    select b.number, b.to_transaction, b.to_seq, b.hash into v_end.number, v_end.to_transaction, v_end.to_seq, v_end.hash
        from sealed_batch b where b.number < p_batch order by b.number desc limit 1;
    v_end.number := coalesce(v_end.number, 0);
    v_end.to_transaction := coalesce(v_end.to_transaction, '0');
    v_end.to_seq := coalesce(v_end.to_seq, 0);
    v_end.hash := coalesce(v_end.hash, chain_beginning());
    for v_batch in select * from sealed_batch b where b.number between p_batch and p_last order by b.number loop
        if v_batch.number <> v_end.number + 1 then
            return query select 'sealed_batch', (v_end.number + 1)::text, 'a sealed batch', 'none';
        elsif v_batch.previous_hash <> v_end.hash then
            return query select 'sealed_batch', v_batch.number::text,
                'the hash of batch ' || v_end.number || ' before it, ' || encode(v_end.hash, 'hex'),
                encode(v_batch.previous_hash, 'hex');
        elsif (v_batch.from_transaction, v_batch.from_seq) <> (v_end.to_transaction, v_end.to_seq) then
            return query select 'sealed_batch', v_batch.number::text,
                format('a beginning at (%s, %s), where batch %s ends', v_end.to_transaction, v_end.to_seq, v_end.number),
                format('(%s, %s)', v_batch.from_transaction, v_batch.from_seq);
        end if;
        if batch_hash(v_batch) <> v_batch.hash then
            return query select 'sealed_batch', v_batch.number::text,
                'content of hash ' || encode(v_batch.hash, 'hex'), encode(batch_hash(v_batch), 'hex');
        end if;
        select * into v_now
            from batch_content(v_batch.from_transaction, v_batch.from_seq, v_batch.to_transaction, v_batch.to_seq);
        if (v_now.seqs, v_now.digests) is distinct from (v_batch.seqs, v_batch.digests) then
            return query select 'transfer', d.seq::text,
                case when d.sealed is null then 'none in batch ' || v_batch.number
                     else format('digest %s in batch %s', encode(d.sealed, 'hex'), v_batch.number) end,
                case when d.present is null then 'none' else 'digest ' || encode(d.present, 'hex') end
                from changed_transfers(v_batch) d;
        end if;
        v_end := v_batch;
    end loop;
end
$$;

-- Which transfers of a batch are not what they were: changed, gone (`present` is null) or come since (`sealed` is null).
create function changed_transfers(b sealed_batch)
returns table (seq bigint, sealed bytea, present bytea)
language sql stable as $$
    select coalesce(was.seq, now.seq), was.digest, now.digest
    from (
        select s.seq, substr(b.digests, (s.place * 32 - 31)::integer, 32) as digest
        from unnest(b.seqs) with ordinality as s (seq, place)
    ) as was
    full join (
        select t.seq, transfer_digest(t) as digest from transfer t
        where (t.transaction_id, t.seq) >= (b.from_transaction, b.from_seq)
            and (t.transaction_id, t.seq) < (b.to_transaction, b.to_seq)
    ) as now on now.seq = was.seq
    where was.digest is distinct from now.digest
    order by 1
$$;

-- That each transfer goes from where its kind comes to where its kind goes, within one wallet, by a positive amount.
create function check_transfers(p_from xid8, p_from_seq bigint)
returns table (place text, key text, expected text, found text)
language sql stable security definer
set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan as $$
    select 'transfer', t.seq::text,
           format('%s of a positive amount from %s to %s of one wallet', t.kind, way.debit, way.credit),
           format('%s from %s (%s) to %s (%s)', t.amount, t.debit_account, coalesce(d.kind || ' in ' || d.wallet, 'none'),
                  t.credit_account, coalesce(c.kind || ' in ' || c.wallet, 'none'))
    from transfer t
    left join (values ('seed', 'custody', 'customer'), ('deposit', 'custody', 'customer'),
                      ('redemption', 'customer', 'payable'), ('interest', 'interest', 'customer'),
                      ('payout', 'payable', 'custody')) as way (kind, debit, credit) on way.kind = t.kind
    left join account d on d.id = t.debit_account
    left join account c on c.id = t.credit_account
    where (t.transaction_id, t.seq) >= (p_from, p_from_seq)
        and (t.amount > 0 and (d.kind, c.kind) = (way.debit, way.credit) and d.wallet = c.wallet) is not true
    order by t.seq
$$;

-- What each transfer does to its customer's account.
create view customer_movement as
    select case when kind = 'redemption' then debit_account else credit_account end as account,
           case when kind = 'redemption' then -amount else amount end as amount,
           seq, kind, redemption, business_at, transaction_id
    from transfer where kind <> 'payout';

-- That each customer's cached balance, interest and head are what the transfers add up to, and that no balance is
-- negative.
create function check_balances(p_from xid8, p_from_seq bigint)
returns table (place text, key text, expected text, found text)
language sql stable security definer
set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan
set work_mem = '16MB' as $$
    with touched as materialized (
        select distinct m.account from customer_movement m
        where p_from > '0' and (m.transaction_id, m.seq) >= (p_from, p_from_seq)
    ),
    summed as (
        select m.account, sum(m.amount) as balance, max(m.seq) as head,
               coalesce(sum(m.amount) filter (where m.kind = 'interest'), 0) as interest
        from customer_movement m
        where p_from = '0' or m.account in (select account from touched)
        group by m.account
    )
    select 'account', coalesce(a.id, s.account),
           format('balance %s with interest %s, true of transfer %s', coalesce(s.balance, 0), coalesce(s.interest, 0),
                  coalesce(s.head, 0)),
           case when a.id is null then 'none'
                else format('balance %s with interest %s, true of transfer %s', a.balance, a.interest, a.head) end
    from summed s
    full join (
        select * from account where kind = 'customer' and (p_from = '0' or id in (select account from touched))
    ) as a on a.id = s.account
    where a.balance < 0 or (a.balance, a.interest, a.head)
        is distinct from (coalesce(s.balance, 0), coalesce(s.interest, 0), coalesce(s.head, 0))
    order by 2
$$;

-- That the accounts of each wallet add up to zero (customers by their cached balances), that no more has been paid out
-- than was redeemed, and that custody holds what is owed.
create function check_wallets()
returns table (place text, key text, expected text, found text)
language sql stable security definer
set search_path = public, pg_temp set enable_nestloop = off as $$
    with platform as (
        select side.account, sum(side.amount) as balance
        from (
            select case when kind = 'redemption' then credit_account else debit_account end as account,
                   case when kind = 'redemption' then amount else -amount end as amount
            from transfer
            union all
            select credit_account, amount from transfer where kind = 'payout'
        ) as side
        group by side.account
    ),
    balance as (
        select a.wallet, a.kind, sum(coalesce(a.balance, p.balance, 0)) as total
        from account a left join platform p on p.account = a.id
        group by a.wallet, a.kind
    )
    select 'account', 'wallet ' || w.wallet, 'accounts that add up to 0', sum(w.total)::text
    from balance w group by w.wallet having sum(w.total) <> 0
    union all
    select 'account', w.kind || '-' || w.wallet, 'no more paid out than was redeemed', w.total::text
    from balance w where w.kind = 'payable' and w.total < 0
$$;

-- That the queue has no gap, that every redemption is accounted for, and that outcomes and transfers settle the same.
-- Of the redemptions after number `p_after`, and of the transfers from (p_from, p_from_seq) on.
create function check_queue(p_after bigint, p_from xid8, p_from_seq bigint)
returns table (place text, key text, expected text, found text)
language sql stable security definer
set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan
set work_mem = '16MB' as $$
    with accepted as materialized (select * from redemption r where r.seq > p_after),
    decided as materialized (select * from outcome o where o.seq > p_after),
    paid as materialized (
        select t.seq, t.debit_account, t.amount, t.redemption from transfer t
        where t.kind = 'redemption' and t.redemption > p_after
            and (t.transaction_id, t.seq) >= (p_from, p_from_seq)
    ),
    counted as materialized (
        select i.accepted, s.decided, s.settled, s.refused, s.parked, a.there, a.last, d.*
        from intake i cross join settlement s
        cross join (select count(*) as there, coalesce(max(seq), p_after) as last from accepted) as a
        cross join (
            select count(*) as outcomes, coalesce(max(seq), p_after) as last_outcome,
                   count(*) filter (where status = 'settled') as are_settled,
                   count(*) filter (where status = 'refused') as are_refused,
                   count(*) filter (where status = 'parked') as are_parked
            from decided
        ) as d
    )
    select 'intake', 'accepted', format('%s redemptions after %s, up to %s', c.there, p_after, c.last),
           format('%s, up to %s', c.accepted - p_after, c.accepted)
    from counted c where c.accepted - p_after <> c.there or c.accepted <> c.last
    union all
    select 'settlement', 'decided', format('%s outcomes after %s, up to %s', c.outcomes, p_after, c.last_outcome),
           format('%s, up to %s', c.decided - p_after, c.decided)
    from counted c where c.decided - p_after <> c.outcomes or c.decided <> c.last_outcome
    union all
    select 'settlement', 'settled, refused, parked',
           format('%s, %s, %s', c.are_settled, c.are_refused, c.are_parked),
           format('%s, %s, %s', c.settled, c.refused, c.parked)
    from counted c
    where p_after = 0 and (c.settled, c.refused, c.parked) <> (c.are_settled, c.are_refused, c.are_parked)
    union all
    select 'redemption', (g.seq - 1)::text, 'a redemption before ' || g.seq, 'none'
    from (
        -- Looked for only where the count is not the highest number.
        select a.seq, lag(a.seq, 1, p_after) over (order by a.seq) as before from accepted a
        where (select c.there <> c.last - p_after from counted c)
    ) as g
    where g.seq <> g.before + 1
    union all
    select 'outcome', (g.seq - 1)::text, 'an outcome before ' || g.seq, 'none'
    from (
        select d.seq, lag(d.seq, 1, p_after) over (order by d.seq) as before from decided d
        where (select c.outcomes <> c.last_outcome - p_after from counted c)
    ) as g
    where g.seq <> g.before + 1
    union all
    select 'outcome', d.seq::text, 'a redemption of this number', 'none'
    from decided d left join accepted a on a.seq = d.seq where a.seq is null
    union all
    select 'outcome', coalesce(d.seq, p.redemption)::text,
           case when p.seq is null then 'a transfer ' || d.transfer
                when d.seq is null then 'settled by transfer ' || p.seq
                else format('settled by a transfer of %s from %s for redemption %s', a.amount, a.account, a.seq) end,
           case when p.seq is null then 'none'
                when d.seq is null then coalesce(
                    (select format('%s, transfer %s', o.status, o.transfer) from decided o where o.seq = p.redemption),
                    'no outcome')
                else format('transfer %s of %s from %s for redemption %s', p.seq, p.amount, p.debit_account, p.redemption)
                end
    from (select * from decided where status = 'settled') as d
    full join paid p on p.seq = d.transfer
    left join accepted a on a.seq = d.seq
    where (p.redemption = d.seq and p.debit_account = a.account and p.amount = a.amount) is not true
    union all
    select 'transfer', g.seq::text, 'redemptions in their order, one after ' || g.before, 'redemption ' || g.redemption
    from (
        select t.seq, t.redemption, lag(t.redemption) over (order by t.seq) as before from transfer t
        where t.kind = 'redemption' and t.redemption > p_after and (t.transaction_id, t.seq) >= (p_from, p_from_seq)
    ) as g
    where g.redemption <= g.before
$$;

-- That each decision is the one that follows from the transfers before it: a replay in the order of the transfers.
--
-- What an account has left after each of its transfers is their running sum. A settled redemption must have left
-- nothing below zero, and have left what its outcome says. A refused one moved nothing, so what its outcome says was
-- there must be what was left at some time after the last redemption settled before it and before the next one (in
-- between there are only credits, so that no amount is there twice), not earlier than an earlier refusal, and less than
-- was asked for.
create function check_decisions(p_after bigint, p_from xid8, p_from_seq bigint)
returns table (place text, key text, expected text, found text)
language sql stable security definer
set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan
set work_mem = '16MB' as $$
    with touched as materialized (
        select m.account from customer_movement m
        where p_after > 0 and (m.transaction_id, m.seq) >= (p_from, p_from_seq)
        union
        select r.account from redemption r join outcome o on o.seq = r.seq where p_after > 0 and o.seq > p_after
    ),
    replayed as materialized (
        select m.account, m.seq, m.redemption, m.amount,
               sum(m.amount) over of_account as balance,
               coalesce(max(m.redemption) over of_account, 0) as after_redemption
        from customer_movement m
        where p_after = 0 or m.account in (select account from touched)
        window of_account as (partition by m.account order by m.seq)
    ),
    decided as (
        select o.seq, o.status, o.balance_after, r.account, r.amount,
               coalesce(max(o.seq) filter (where o.status = 'settled') over (
                   partition by r.account order by o.seq), 0) as after_redemption
        from outcome o join redemption r on r.seq = o.seq
        where p_after = 0 or r.account in (select account from touched)
    ),
    refused as materialized (
        select d.*, lag(d.balance_after) over (
            partition by d.account, d.after_redemption order by d.seq) as refused_before
        from decided d where d.status = 'refused'
    )
    select 'outcome', r.redemption::text,
           format('refused: %s had %s when %s was asked for', r.account, r.balance - r.amount, -r.amount), 'settled'
    from replayed r where r.balance < 0 and r.redemption is not null
    union all
    select 'outcome', r.redemption::text, 'a balance of ' || r.balance || ' after it', coalesce(o.balance_after::text, 'none')
    from replayed r join outcome o on o.seq = r.redemption
    where o.status = 'settled' and o.balance_after is distinct from r.balance
    union all
    select 'outcome', d.seq::text, format('settled: %s had %s when %s was asked for', d.account, d.balance_after, d.amount),
           'refused'
    from refused d where d.balance_after >= d.amount
    union all
    select 'outcome', d.seq::text,
           format('a balance that %s had between the redemptions settled before and after it', d.account),
           coalesce(d.balance_after::text, 'none')
    from refused d
    where not exists (
            select from replayed r
            where r.account = d.account and r.after_redemption = d.after_redemption and r.balance = d.balance_after)
        and not (d.after_redemption = 0 and d.balance_after = 0)
    union all
    select 'outcome', d.seq::text, format('a balance of at least %s, as at the refusal before it', d.refused_before),
           d.balance_after::text
    from refused d where d.balance_after < d.refused_before
$$;

create function hour_name(p_hour timestamptz) returns text
language sql stable as $$ select to_char(p_hour at time zone 'UTC', 'YYYY-MM-DD"T"HH24"Z"') $$;

-- The hours after `p_after` (null: all) up to `p_to`.
create function hours_between(p_after timestamptz, p_to timestamptz) returns table (hour timestamptz)
language sql stable security definer set search_path = public, pg_temp as $$
    select h.hour from accrual_hour h where (p_after is null or h.hour > p_after) and h.hour <= p_to order by h.hour
$$;

-- The hours from `p_from` to `p_to` in detail: every account that was open has its snapshot, no other has one; the
-- balance is the one of the hour before and what came since; interest and remainder are what it earned and what was
-- carried; and just that interest was paid.
create function check_snapshots(p_from timestamptz, p_to timestamptz)
returns table (place text, key text, expected text, found text)
language sql stable security definer
set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan
set work_mem = '16MB' as $$
    with gathered as (
        select h.hour, a.id as account, 1 as open, 0 as snapshots, 0::bigint as balance, 0::bigint as interest,
               0::bigint as remainder, 0::bigint as due_balance, 0::bigint as carried, 0::bigint as paid
        from accrual_hour h join account a on a.kind = 'customer' and a.opened_business_at < h.hour + interval '1 hour'
        where h.hour between p_from and p_to
        union all
        select s.hour, s.account, 0, 1, s.balance, s.interest, s.remainder, 0, 0, 0
        from accrual_snapshot s where s.hour between p_from and p_to
        union all
        -- What the hour before left, its interest included.
        select s.hour + interval '1 hour', s.account, 0, 0, 0, 0, 0, s.balance + s.interest, s.remainder, 0
        from accrual_snapshot s
        where s.hour between p_from - interval '1 hour' and p_to - interval '1 hour'
        union all
        -- The very first hour takes whatever came before it.
        select greatest(date_trunc('hour', m.business_at, 'UTC'), p_from), m.account, 0, 0, 0, 0, 0, m.amount, 0, 0
        from customer_movement m
        where m.kind <> 'interest' and m.business_at < p_to + interval '1 hour'
            and m.business_at >= case when exists (
                select from accrual_hour h where h.hour < p_from) then p_from else '-infinity' end
        union all
        select m.business_at - interval '1 hour', m.account, 0, 0, 0, 0, 0, 0, 0, m.amount
        from customer_movement m
        where m.kind = 'interest' and m.business_at between p_from + interval '1 hour' and p_to + interval '1 hour'
    ),
    held as (
        select g.hour, g.account, sum(g.open) as open, sum(g.snapshots) as snapshots, sum(g.balance) as balance,
               sum(g.interest) as interest, sum(g.remainder) as remainder, sum(g.due_balance) as due_balance,
               sum(g.carried) as carried, sum(g.paid) as paid
        from gathered g group by g.hour, g.account
    )
    select 'accrual_snapshot', format('%s %s', hour_name(h.hour), h.account),
           case when h.open <> h.snapshots then h.open || ' snapshot'
                else format('balance %s, earning at %s with %s carried, and as much interest paid',
                            h.due_balance, r.rate_ppb, h.carried) end,
           case when h.open <> h.snapshots then h.snapshots || ' snapshot'
                else format('balance %s, interest %s and remainder %s, and %s paid',
                            h.balance, h.interest, h.remainder, h.paid) end
    from held h left join accrual_hour r on r.hour = h.hour
    where h.open <> h.snapshots
        or h.balance <> h.due_balance
        or h.remainder not between 0 and 8759999999999
        -- What was earned and carried is what was paid and is carried on: no division, unlike where it was made.
        or h.interest * 8760000000000 + h.remainder <> greatest(h.balance, 0) * r.rate_ppb + h.carried
        or h.interest <> h.paid
    order by 2
$$;

-- A number from 0 to 2^31 - 1 for each account, that nobody knows before `p_salt` is drawn.
create function account_weight(p_account text, p_salt bigint) returns bigint
language sql immutable as $$ select hashtextextended(p_account, p_salt) >> 32 & 2147483647 $$;

-- All hours by their totals: none is missing, every account that was open has its snapshot, balances are those of the
-- hour before and what came since, what an hour earned is what it paid and carried on, and at the rate that was in force.
--
-- In the totals each account counts as often as its weight says. Were they just sums, what one account was given and
-- another one robbed of would cancel out; by weights that are drawn anew for each check it does with a probability of
-- 2^-31. So all snapshots are looked at, at a fraction of what it costs to compare each with its account's others.
create function check_hours(p_salt bigint)
returns table (place text, key text, expected text, found text)
language sql stable security definer
set search_path = public, pg_temp set enable_nestloop = off set plan_cache_mode = force_custom_plan
set work_mem = '16MB' as $$
    with total as materialized (
        -- In halves, whose products are not beyond 64 bits: numbers of any size take three times as long to multiply.
        select s.hour, count(*) as accounts, sum(s.interest) as earned,
               count(*) filter (where s.remainder not between 0 and 8759999999999) as out_of_range,
               sum(s.weight) as weights,
               sum(s.weight * (s.balance & 2147483647)) + 2147483648 * sum(s.weight * (s.balance >> 31)) as balance,
               coalesce(sum(s.weight * s.balance::numeric) filter (where s.balance < 0), 0) as overdrawn,
               sum(s.weight * (s.interest & 2147483647)) + 2147483648 * sum(s.weight * (s.interest >> 31)) as interest,
               sum(s.weight * (s.remainder & 2147483647)) + 2147483648 * sum(s.weight * (s.remainder >> 31)) as remainder
        -- The weight is worked out once for each row.
        from (select *, account_weight(account, p_salt) as weight from accrual_snapshot offset 0) as s
        group by s.hour
    ),
    paid as materialized (
        select t.business_at - interval '1 hour' as hour, sum(t.amount) as credited,
               sum(t.weight * (t.amount & 2147483647)) + 2147483648 * sum(t.weight * (t.amount >> 31)) as interest
        from (
            select business_at, amount, account_weight(account, p_salt) as weight
            from customer_movement where kind = 'interest' offset 0
        ) as t group by t.business_at
    ),
    -- The very first hour takes whatever came before it.
    moved as materialized (
        select greatest(m.hour, (select min(h.hour) from accrual_hour h)) as hour, sum(m.moved) as moved
        from (
            select date_trunc('hour', business_at, 'UTC') as hour,
                   sum(account_weight(account, p_salt) * amount::numeric) as moved
            from customer_movement where kind <> 'interest' group by 1
        ) as m group by 1
    ),
    opened as materialized (
        select greatest(date_trunc('hour', a.opened_business_at, 'UTC'), (select min(h.hour) from accrual_hour h)) as hour,
               sum(account_weight(a.id, p_salt)) as weights
        from account a where a.kind = 'customer' group by 1
    ),
    told as materialized (
        select coalesce(h.hour, t.hour, p.hour) as hour, h.hour is null as unknown, h.finished_at is not null as finished,
               h.accounts, h.credited, h.rate_ppb, coalesce(t.accounts, 0) as snapshots, coalesce(t.earned, 0) as earned,
               coalesce(t.out_of_range, 0) as out_of_range, coalesce(t.weights, 0) as weights,
               coalesce(t.balance, 0) as balance, coalesce(t.overdrawn, 0) as overdrawn,
               coalesce(t.interest, 0) as interest, coalesce(t.remainder, 0) as remainder,
               coalesce(p.credited, 0) as paid, coalesce(p.interest, 0) as paid_interest
        from accrual_hour h full join total t on t.hour = h.hour full join paid p on p.hour = coalesce(h.hour, t.hour)
    ),
    due as (
        select t.*, coalesce(m.moved, 0) as moved, coalesce(o.weights, 0) as opened,
               lag(t.hour, 1, (
                   select date_trunc('hour', c.business, 'UTC') - interval '1 hour'
                   from business_clock c order by c.wall limit 1)) over in_order as hour_before,
               lag(t.remainder, 1, 0) over in_order as carried,
               lag(t.weights, 1, 0) over in_order as weights_before,
               lag(t.balance + t.interest, 1, 0) over in_order as left_before,
               lead(t.hour) over in_order is null as newest,
               (select r.rate_ppb from interest_rate r where r.from_hour <= t.hour order by r.from_hour desc limit 1) as rate
        from told t left join moved m on m.hour = t.hour left join opened o on o.hour = t.hour
        window in_order as (order by t.hour)
    )
    select 'accrual_hour', hour_name(missing), 'an hour with its snapshots', 'none'
    from due d cross join lateral (
        select generate_series(d.hour_before + interval '1 hour', d.hour - interval '1 hour', interval '1 hour') as missing
        union all
        select d.hour where d.unknown
    ) as gap
    union all
    select 'accrual_hour', hour_name(d.hour),
           format('%s snapshots, %s interest credited at %s, and the next hour after its end',
                  d.snapshots, d.paid, d.rate),
           format('%s snapshots, %s interest of %s credited at %s, %s', d.accounts, d.earned, d.credited, d.rate_ppb,
                  case when d.finished then 'finished' else 'not finished' end)
    from due d
    where not d.unknown and (
        (d.accounts, d.credited, d.earned, d.rate_ppb) is distinct from (d.snapshots, d.paid, d.paid, d.rate)
        or not (d.finished or d.newest))
    union all
    select 'accrual_hour', hour_name(d.hour), 'snapshots that follow from the hour before, from transfers and from the rate',
           'others'
    from due d
    where d.finished and (
        d.out_of_range > 0
        or d.interest <> d.paid_interest
        -- Where the hour before is missing, that is what is wrong.
        or d.hour_before = d.hour - interval '1 hour' and (
            d.weights <> d.weights_before + d.opened
            or d.balance <> d.left_before + d.moved
            or d.interest * 8760000000000 + d.remainder <> (d.balance - d.overdrawn) * d.rate_ppb + d.carried))
    order by 2
$$;

-- The process that reconciles signs with a key of its own. One key at a time: only an owner can retire it.
create table reconciliation_key (
    public_key bytea primary key check (length(public_key) = 32),
    enrolled_at timestamptz not null default clock_timestamp(),
    retired_at timestamptz
);
create unique index reconciliation_key_in_force on reconciliation_key ((true)) where retired_at is null;

create function enrol_reconciliation_key(p_public_key bytea) returns void
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    insert into reconciliation_key (public_key) values (p_public_key) on conflict do nothing;
    perform from reconciliation_key k where k.public_key = p_public_key and k.retired_at is null;
    if not found then
        raise exception 'another key signs reconciliations, or this one has been retired'
            using errcode = 'insufficient_privilege',
            hint = 'Bring the old key file back, or let the owner set retired_at of the old key in reconciliation_key.';
    end if;
end
$$;

-- What was found, when, and of which ledger. `signature` is over all the rest, and `previous` over the record before.
create table reconciliation (
    number bigint primary key check (number > 0),
    "full" boolean not null,
    passed boolean not null,
    -- The newest transfer there was.
    head bigint not null,
    -- The newest sealed batch there was and its hash; 0 and the beginning of the chain where there was none.
    batch bigint not null,
    batch_hash bytea not null,
    -- The newest redemption with an outcome.
    decided bigint not null,
    -- The newest hour whose interest was complete.
    accrued_to timestamptz,
    -- Every batch of payouts up to this one was paid.
    paid_to bigint not null,
    -- How often the service had changed its stage: tells what was seen in a stage from what was seen before it.
    stage_changes bigint not null,
    problems json not null,
    took_s double precision not null,
    recorded_at timestamptz not null,
    -- The digest of the record before with its signature.
    previous bytea not null,
    public_key bytea not null references reconciliation_key,
    signature bytea not null check (length(signature) = 64),
    constraint passed_without_problems check (passed = (json_array_length(problems) = 0))
);
create trigger reconciliation_is_append_only before update or delete or truncate on reconciliation
    for each statement execute function refuse_change();

-- The ledger as of now: its newest transfer, its newest sealed batch, and the time.
create function ledger_moment()
returns table (head bigint, batch bigint, batch_hash bytea, decided bigint, accrued_to timestamptz, paid_to bigint,
               stage_changes bigint, wall timestamptz)
language sql stable security definer set search_path = public, pg_temp as $$
    select (select coalesce(max(t.seq), 0) from transfer t), coalesce(b.number, 0),
           coalesce(b.hash, chain_beginning()), (select s.decided from settlement s),
           (select max(h.hour) from accrual_hour h where h.finished_at is not null),
           coalesce((select min(p.number) - 1 from payout_batch p where p.transfer is null),
                    (select max(p.number) from payout_batch p), 0),
           (select s.stage_changes from service_state s), clock_timestamp()
    from (values (1)) as one
    left join lateral (select s.number, s.hash from sealed_batch s order by s.number desc limit 1) b on true
$$;

-- Where a batch ends, which is where the next one begins; (0, 0) for batch 0.
create function batch_end(p_batch bigint) returns table (transaction text, seq bigint)
language sql stable security definer set search_path = public, pg_temp as $$
    select coalesce(max(b.to_transaction), '0')::text, coalesce(max(b.to_seq), 0)
    from sealed_batch b where b.number = p_batch
$$;

create function sealed_hash(p_batch bigint) returns bytea
language sql stable security definer set search_path = public, pg_temp as $$
    select b.hash from sealed_batch b where b.number = p_batch
$$;

-- The records from `p_number` on, at most `p_limit`.
create function read_reconciliations(p_number bigint, p_limit integer) returns setof reconciliation
language sql stable security definer set search_path = public, pg_temp as $$
    select * from reconciliation r where r.number >= p_number order by r.number limit p_limit
$$;

-- The newest record; with `p_passed`, the newest that passed.
create function newest_reconciliation(p_passed boolean) returns setof reconciliation
language sql stable security definer set search_path = public, pg_temp as $$
    select * from reconciliation r where r.passed or not p_passed order by r.number desc limit 1
$$;

-- Writes the record, and sets the gate with it: what failed shuts it for `p_reason`, only a whole check that passed opens
-- it. It has to follow the newest one: what was recorded meanwhile may have failed, and is not to be passed over.
create function record_reconciliation(
    p_number bigint, p_full boolean, p_passed boolean, p_head bigint, p_batch bigint, p_batch_hash bytea,
    p_decided bigint, p_accrued_to timestamptz, p_paid_to bigint, p_stage_changes bigint, p_problems text,
    p_took_s double precision, p_recorded_at timestamptz, p_previous bytea, p_public_key bytea, p_signature bytea, p_reason text)
returns void
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform take_turn('reconciliation');
    if p_number <> (select coalesce(max(r.number), 0) + 1 from reconciliation r) then
        raise exception 'reconciliation % does not follow the newest one', p_number using errcode = 'unique_violation';
    end if;
    perform from reconciliation_key k where k.public_key = p_public_key and k.retired_at is null;
    if not found then
        raise exception 'reconciliation % is signed with a key that is not in force', p_number
            using errcode = 'insufficient_privilege';
    end if;
    insert into reconciliation values (
        p_number, p_full, p_passed, p_head, p_batch, p_batch_hash, p_decided, p_accrued_to, p_paid_to, p_stage_changes,
        p_problems::json, p_took_s, p_recorded_at, p_previous, p_public_key, p_signature);
    if not p_passed then
        update service_state set gate = 'shut', gate_reason = p_reason, changed_at = clock_timestamp()
            where (gate, gate_reason) <> ('shut', p_reason);
    elsif p_full then
        update service_state set gate = 'open', gate_reason = '', changed_at = clock_timestamp()
            where (gate, gate_reason) <> ('open', '');
    end if;
end
$$;

-- What each customer's account held when everything was checked last and found right, so that a balance can be compared
-- with its transfers without adding up all of them again; and which transfers are contained in it: those of the
-- transactions that were over then. Written in the moment of the check itself. Without a check nothing is contained.
create table verified_balance (
    account text primary key,
    balance bigint not null
) with (fillfactor = 70);
create table verified_moment (
    one boolean primary key default true check (one),
    seen pg_snapshot
);
insert into verified_moment default values;

-- Keeps the balances of this moment as found right: for whoever has just checked them all, in the same snapshot.
create function keep_verified_balances() returns void
language plpgsql security definer set search_path = public, pg_temp set enable_nestloop = off as $$
begin
    update verified_balance v set balance = a.balance from account a where a.id = v.account and a.balance <> v.balance;
    insert into verified_balance (account, balance)
        select a.id, a.balance from account a
        where a.kind = 'customer' and not exists (select from verified_balance v where v.account = a.id);
    update verified_moment set seen = pg_current_snapshot();
end
$$;

-- What the process that verifies has to know of the service.
create function service_stage() returns table (stage text, gate text)
language sql stable security definer set search_path = public, pg_temp as $$
    select s.stage, s.gate from service_state s
$$;

grant execute on function
    seal(integer), check_chain(bigint, bigint), check_transfers(xid8, bigint), check_balances(xid8, bigint), check_wallets(),
    check_queue(bigint, xid8, bigint), check_decisions(bigint, xid8, bigint), hours_between(timestamptz, timestamptz),
    check_snapshots(timestamptz, timestamptz), check_hours(bigint),
    enrol_reconciliation_key(bytea), ledger_moment(), batch_end(bigint), sealed_hash(bigint),
    read_reconciliations(bigint, integer), newest_reconciliation(boolean), service_stage(),
    keep_verified_balances(),
    record_reconciliation(bigint, boolean, boolean, bigint, bigint, bytea, bigint, timestamptz, bigint, bigint, text,
        double precision, timestamptz, bytea, bytea, bytea, text)
    to savings_maintenance;
grant select on sealed_batch, reconciliation, reconciliation_key to savings_auditor;
grant select (account, epoch, expires_at) on session to savings_auditor;
