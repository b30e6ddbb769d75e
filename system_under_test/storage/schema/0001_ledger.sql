-- The ledger: every transfer debits one account and credits another by one positive amount, so that it is
-- zero-sum by construction; rows are never changed, a correction is a new transfer.

create table account (
    id text primary key check (id ~ '^[a-z][a-z0-9-]{0,31}$'),
    kind text not null check (kind in ('customer', 'external', 'payable')),
    -- Cached for customers only: a cached balance of the platform's own accounts would be one row that
    -- every transfer waits for.
    balance bigint,
    -- The newest transfer contained in the balance.
    head bigint not null default 0,
    opened_at timestamptz not null default now(),
    constraint customers_have_a_balance check ((kind = 'customer') = (balance is not null)),
    constraint no_negative_balance check (kind <> 'customer' or balance >= 0)
) with (fillfactor = 70);

create table transfer (
    id uuid primary key default uuidv7(),
    seq bigint generated always as identity unique,
    kind text not null check (kind in ('deposit', 'redeem', 'seed')),
    debit_account text not null references account (id),
    credit_account text not null references account (id),
    amount bigint not null,
    key text,
    created_at timestamptz not null default clock_timestamp(),
    constraint amount_is_positive check (amount > 0),
    constraint two_accounts check (debit_account <> credit_account)
);

insert into account (id, kind) values ('external', 'external'), ('payable', 'payable');

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

-- Cached balances move with the transfers, in the same statement, and in no other way.
create function apply_transfers() returns trigger language plpgsql as $$
begin
    update account
    set balance = account.balance + moved.amount, head = greatest(account.head, moved.head)
    from (
        select side.account, sum(side.amount)::bigint as amount, max(side.seq) as head
        from (
            select credit_account as account, amount, seq from posted
            union all
            select debit_account, -amount, seq from posted
        ) as side
        group by side.account
    ) as moved
    where account.id = moved.account and account.kind = 'customer';
    return null;
end
$$;

create trigger transfer_moves_balances after insert on transfer
    referencing new table as posted
    for each statement execute function apply_transfers();

create function guard_account() returns trigger language plpgsql as $$
begin
    -- Depth 1 is a statement of somebody's own; the trigger above arrives at depth 2.
    if pg_trigger_depth() < 2 then
        raise exception '% on account % is refused: only transfers move a balance', tg_op, new.id
            using errcode = 'restrict_violation', hint = 'Insert into transfer instead.';
    end if;
    return new;
end
$$;

create trigger account_opens_empty before insert on account
    for each row when (new.balance <> 0 or new.head <> 0) execute function guard_account();
create trigger account_balance_follows before update on account
    for each row
    when ((old.id, old.kind, old.balance, old.head) is distinct from (new.id, new.kind, new.balance, new.head))
    execute function guard_account();
