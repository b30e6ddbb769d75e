-- The ledger: every transfer debits one account and credits another by one positive amount, so that it is
-- zero-sum by construction; rows are never changed, a correction is a new transfer.
--
-- Customers' money lies in segregated custody wallets. Every account belongs to one wallet, and no transfer leaves it:
--
--     custody-a   what the wallet holds, as a debit: deposits come in here, payouts leave here under a manifest
--     c-...       what a customer owns of it
--     payable-a   redeemed, not paid out yet
--     interest-a  paid as interest by the platform, not by the wallet
--
-- so the balances (credits less debits) of each wallet's accounts add up to zero.

create table account (
    id text primary key check (id ~ '^[a-z][a-z0-9-]*$' and length(id) <= 32),
    kind text not null check (kind in ('customer', 'custody', 'payable', 'interest')),
    wallet text not null check (wallet ~ '^[a-z]$'),
    -- Cached for customers only: a cached balance of the platform's own accounts would be one row that
    -- every transfer waits for.
    balance bigint,
    -- The newest transfer contained in the balance.
    head bigint not null default 0,
    -- Interest credited since the account was opened; contained in the balance.
    interest bigint not null default 0,
    -- Held by the platform's lawyers: nothing is paid from it.
    frozen boolean not null default false,
    opened_at timestamptz not null default now(),
    -- Interest begins with the hour that holds this; the platform's own accounts are older than business time.
    opened_business_at timestamptz default business_now(),
    constraint customers_have_a_balance check ((kind = 'customer') = (balance is not null)),
    constraint customers_have_a_beginning check (kind <> 'customer' or opened_business_at is not null),
    constraint no_negative_balance check (kind <> 'customer' or balance >= 0)
-- Interest changes every balance of a page at once: with room for all of them their second versions stay on it.
) with (fillfactor = 45);

create table transfer (
    -- Within an account, the order of commits: whoever writes locks the customer's row before taking a number.
    seq bigint generated always as identity primary key,
    kind text not null check (kind in ('seed', 'deposit', 'redemption', 'interest', 'payout')),
    debit_account text not null,
    credit_account text not null,
    amount bigint not null,
    -- A deposit's Idempotency-Key.
    key text,
    -- What a redemption settles and what a payout pays.
    redemption bigint,
    payout bigint,
    recorded_at timestamptz not null default clock_timestamp(),
    -- Interest is dated with the end of its hour, everything else with the time it was recorded.
    business_at timestamptz not null default business_now(),
    -- By which transfers are gathered into sealed batches: numbers are taken before a commit, so they cannot tell
    -- which transfers are still to come; transactions can.
    transaction_id xid8 not null default pg_current_xact_id(),
    constraint amount_is_positive check (amount > 0),
    constraint two_accounts check (debit_account <> credit_account),
    constraint cause_is_named check (
        (kind = 'redemption') = (redemption is not null) and (kind = 'payout') = (payout is not null))
);
-- For balances as of an earlier time: interest is credited in the order of its hours, so that none is ever later.
create index transfer_by_business_time on transfer (business_at) where kind <> 'interest';
create index transfer_by_transaction on transfer (transaction_id, seq);

insert into account (id, kind, wallet)
    select k.kind || '-' || w.wallet, k.kind, w.wallet
    from unnest(array['custody', 'payable', 'interest']) as k (kind), unnest(array['a', 'b']) as w (wallet);

-- Append-only, for the owner too.
create function refuse_change() returns trigger language plpgsql as $$
begin
    raise exception '% on % is refused: the ledger is append-only', tg_op, tg_table_name
        using errcode = 'restrict_violation', hint = 'Correct a transfer by another one.';
end
$$;

create trigger transfer_is_append_only before update or delete or truncate on transfer
    for each statement execute function refuse_change();
create trigger account_is_permanent before delete or truncate on account
    for each statement execute function refuse_change();

-- What an account holds at most after it was paid into: ten thousand of the largest deposits. Interest goes beyond it
-- and is far from the end of 64 bits even then: almost seven years at 100 % a year, more than a century and a half at
-- 4.321 %. (SV002 tells it apart, and the whole statement leaves nothing.)
create function account_limit() returns bigint language sql immutable as $$ select 10000000000000000 $$;

-- Cached balances move with the transfers, in the same statement, and in no other way. Foreign keys would cost more
-- than all the rest of a large batch: that both sides exist and share a wallet is checked once for the statement. Plans
-- are kept for the connection's life: one made for a large batch must not read all accounts for a single deposit.
create function apply_transfers() returns trigger language plpgsql set enable_seqscan = off as $$
declare
    v_wrong bigint;
    v_full text;
begin
    select p.seq into v_wrong
    from posted p left join account d on d.id = p.debit_account left join account c on c.id = p.credit_account
    where d.wallet is distinct from c.wallet or d.wallet is null
    limit 1;
    if found then
        raise exception 'transfer % is refused: its sides are not two accounts of one wallet', v_wrong
            using errcode = 'foreign_key_violation';
    end if;
    -- Sums are numeric: those of the platform's own accounts, which are left out below, may exceed 64 bits.
    with changed as (
        update account
        set balance = account.balance + moved.amount,
            head = greatest(account.head, moved.head),
            interest = account.interest + moved.interest
        from (
            select side.account, sum(side.amount) as amount, max(side.seq) as head,
                   sum(case when side.kind = 'interest' then side.amount else 0 end) as interest,
                   bool_or(side.kind in ('seed', 'deposit')) as paid_into
            from (
                select credit_account as account, amount, seq, kind from posted
                union all
                select debit_account, -amount, seq, kind from posted
            ) as side
            group by side.account
        ) as moved
        where account.id = moved.account and account.kind = 'customer'
        returning account.id, account.balance, moved.paid_into
    )
    select c.id into v_full from changed c where c.paid_into and c.balance > account_limit() limit 1;
    if found then
        raise exception 'account % is full: it may hold %', v_full, account_limit() using errcode = 'SV002';
    end if;
    return null;
end
$$;

create trigger transfer_moves_balances after insert on transfer
    referencing new table as posted
    for each statement execute function apply_transfers();

create function guard_account() returns trigger language plpgsql as $$
begin
    raise exception '% on account % is refused: only transfers move a balance', tg_op, new.id
        using errcode = 'restrict_violation', hint = 'Insert into transfer instead.';
end
$$;

create trigger account_opens_empty before insert on account
    for each row when (new.balance <> 0 or new.head <> 0 or new.interest <> 0) execute function guard_account();
-- Depth 0 is a statement of somebody's own; the trigger above arrives at depth 1. Asked here, because calling the
-- function for each balance of a large batch would cost as much as the rest of the update.
create trigger account_balance_follows before update on account
    for each row
    when (pg_trigger_depth() = 0
          and (old.id, old.kind, old.wallet, old.balance, old.head, old.interest)
          is distinct from (new.id, new.kind, new.wallet, new.balance, new.head, new.interest))
    execute function guard_account();
