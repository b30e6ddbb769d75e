-- Customers, their sessions and the answers they were given.

create sequence customer_number;

create table customer (
    email text primary key check (email = lower(email)),
    password_hash text not null,
    account text not null unique references account (id)
);

create table session (
    token_hash bytea primary key check (length(token_hash) = 32),
    account text not null references account (id),
    expires_at timestamptz not null,
    -- The reopening of the service that it was last synchronised with.
    epoch bigint not null default 0
);
create index session_of_account on session (account, expires_at);

-- One row for each order that was ever taken; `status` and `response` are what the first try was answered.
create table idempotency (
    account text not null,
    key text not null check (key ~ '^[!-~]+$' and length(key) <= 255),
    route text not null,
    payload_hash bytea not null,
    status integer,
    response text,
    created_at timestamptz not null default now(),
    constraint idempotency_key primary key (account, key)
) with (fillfactor = 70);
