-- Payouts from the custody wallets, under manifests that two signers signed.
--
--     settled redemptions -> payout_batch -> manifest -> signature, signature -> one transfer payable-W -> custody-W
--     (settlement)           (propose_payouts)           (each signer its own)   (pay_out)
--
-- Who does what is kept apart by roles: settlement proposes and pays but cannot sign; a signer signs in its own name but
-- cannot pay; only the owner ends a key. What signatures say is verified where keys and bytes are understood: by the
-- signers before they sign, by settlement before it pays, and by the audit of every payout afterwards. The database
-- re-checks everything else at the moment of payment.

-- The signers there are. A seat that is vacant takes the first key that its role brings; a revoked one stays taken.
create table signer (
    name text primary key check (name ~ '^[a-z0-9-]{1,32}$'),
    database_role text not null unique,
    vacant boolean not null default true
);
insert into signer (name, database_role)
    select 'signer-' || number, 'savings_signer_' || number from generate_series(1, 3) as number;

-- Every change of keys or rules makes a new version; manifests of an older one are made anew.
create table custody_policy (
    version bigint primary key,
    required integer not null default 2 check (required >= 2),
    -- How long a manifest is good for, in wall time.
    lifetime interval not null default '5 minutes' check (lifetime > '0' and lifetime <= '15 minutes'),
    cause text not null,
    made_at timestamptz not null default clock_timestamp()
);
insert into custody_policy (version, cause) values (1, 'installed');

create table signer_key (
    public_key bytea primary key check (length(public_key) = 32),
    signer text not null references signer (name),
    -- The policy versions in which it counts: from `since` until before `until`.
    since bigint not null references custody_policy (version),
    until bigint references custody_policy (version),
    revoked boolean not null default false,
    enrolled_at timestamptz not null default clock_timestamp(),
    ended_at timestamptz,
    constraint ended_as_a_whole check ((until is null) = (ended_at is null) and (until is not null or not revoked))
);
create unique index signer_has_one_key on signer_key (signer) where until is null;

-- Per wallet: every settled redemption up to here is in a batch.
create table payout_progress (
    wallet text primary key,
    considered bigint not null default 0,
    proposed_at timestamptz not null default '-infinity'
);
insert into payout_progress (wallet) select wallet from account where kind = 'custody';

-- The settled redemptions of a wallet from `first_seq` to `last_seq`, in the order of the queue.
create table payout_batch (
    number bigint generated always as identity primary key,
    wallet text not null references payout_progress (wallet),
    first_seq bigint not null,
    last_seq bigint not null check (last_seq >= first_seq),
    count bigint not null check (count between 1 and 5000),
    total bigint not null check (total > 0),
    digest bytea not null check (length(digest) = 32),
    proposed_at timestamptz not null default clock_timestamp(),
    -- What paid it, and under which manifest.
    transfer bigint unique,
    manifest bytea,
    paid_at timestamptz,
    constraint paid_as_a_whole check ((transfer is null) = (manifest is null) and (transfer is null) = (paid_at is null))
);
create index payout_batch_of_wallet on payout_batch (wallet, last_seq);
create index payout_batch_unpaid on payout_batch (wallet) where transfer is null;
-- A batch is paid once, whatever else goes wrong.
create unique index transfer_of_payout on transfer (payout) where payout is not null;

create table manifest (
    nonce bytea primary key check (length(nonce) = 16),
    batch bigint not null references payout_batch (number),
    encoding smallint not null default 1,
    wallet text not null,
    digest bytea not null check (length(digest) = 32),
    count bigint not null,
    total bigint not null,
    -- The newest transfer when it was made.
    head bigint not null,
    policy_version bigint not null references custody_policy (version),
    created_at timestamptz not null,
    expires_at timestamptz not null,
    -- What is signed.
    canonical bytea not null,
    status text not null default 'pending' check (status in ('pending', 'paid', 'refused')),
    reason text,
    closed_at timestamptz,
    constraint closed_as_a_whole check ((status = 'pending') = (closed_at is null)),
    constraint refused_for_a_reason check ((status = 'refused') = (reason is not null))
);
create unique index manifest_pending on manifest (batch) where status = 'pending';

create table signature (
    manifest bytea not null references manifest (nonce),
    signer text not null references signer (name),
    public_key bytea not null,
    -- The batch that the signer made it for.
    batch bigint not null,
    value bytea not null check (length(value) = 64),
    signed_at timestamptz not null default clock_timestamp(),
    primary key (manifest, signer)
);

-- What was decided stays: a row is closed once and otherwise never changes, for the owner too.
create function guard_custody() returns trigger language plpgsql as $$
begin
    raise exception '% on % is refused: it was decided once and is kept', tg_op, tg_table_name
        using errcode = 'restrict_violation', hint = 'Propose it anew, or make a new version of the policy.';
end
$$;
create trigger signature_is_append_only before update or delete or truncate on signature
    for each statement execute function guard_custody();
create trigger policy_is_append_only before update or delete or truncate on custody_policy
    for each statement execute function guard_custody();
create trigger batch_is_kept before delete or truncate on payout_batch
    for each statement execute function guard_custody();
create trigger manifest_is_kept before delete or truncate on manifest
    for each statement execute function guard_custody();
create trigger key_is_kept before delete or truncate on signer_key
    for each statement execute function guard_custody();
create trigger batch_is_paid_once before update on payout_batch for each row
    when (old.transfer is not null
          or (old.number, old.wallet, old.first_seq, old.last_seq, old.count, old.total, old.digest, old.proposed_at)
          is distinct from
          (new.number, new.wallet, new.first_seq, new.last_seq, new.count, new.total, new.digest, new.proposed_at))
    execute function guard_custody();
create trigger manifest_is_closed_once before update on manifest for each row
    when (old.status <> 'pending'
          or (old.nonce, old.batch, old.encoding, old.wallet, old.digest, old.count, old.total, old.head,
              old.policy_version, old.created_at, old.expires_at, old.canonical)
          is distinct from
             (new.nonce, new.batch, new.encoding, new.wallet, new.digest, new.count, new.total, new.head,
              new.policy_version, new.created_at, new.expires_at, new.canonical))
    execute function guard_custody();
create trigger key_ends_once before update on signer_key for each row
    when (old.until is not null
          or (old.public_key, old.signer, old.since, old.enrolled_at)
          is distinct from (new.public_key, new.signer, new.since, new.enrolled_at))
    execute function guard_custody();

-- The bytes that are signed, as domain/custody.py has them: made twice, by two programs, so that neither is believed.
create function manifest_bytes(p manifest) returns bytea
language sql stable set search_path = public, pg_temp as $$
    select convert_to('savings custody payout manifest', 'UTF8') || '\x00'::bytea
        || int2send(p.encoding) || int8send(p.batch)
        || int2send(octet_length(p.wallet)::smallint) || convert_to(p.wallet, 'UTF8')
        || p.digest || int8send(p.count) || int8send(p.total) || int8send(p.head) || int8send(p.policy_version)
        || int8send((extract(epoch from p.created_at) * 1000000)::bigint)
        || int8send((extract(epoch from p.expires_at) * 1000000)::bigint)
        || p.nonce
$$;

-- The first `p_limit` settled redemptions of a wallet in a part of the queue: where outcome, request and transfer say
-- the same. (No hash join: the part is small, and the tables it lies in are not.)
create function payout_list(p_wallet text, p_first bigint, p_last bigint, p_limit integer)
returns table (seq bigint, account text, amount bigint)
language sql stable set search_path = public, pg_temp set enable_hashjoin = off set enable_mergejoin = off as $$
    select o.seq, t.debit_account, t.amount
    from outcome o join transfer t on t.seq = o.transfer join redemption r on r.seq = o.seq
    where o.seq between p_first and p_last and o.status = 'settled'
      and t.kind = 'redemption' and t.redemption = o.seq and t.credit_account = 'payable-' || p_wallet
      and r.account = t.debit_account and r.amount = t.amount
    order by o.seq
    limit p_limit
$$;

create function payout_digest(
    p_wallet text, p_first bigint, p_last bigint, p_limit integer,
    out first_seq bigint, out last_seq bigint, out count bigint, out total bigint, out digest bytea)
language sql stable set search_path = public, pg_temp as $$
    select min(l.seq), max(l.seq), count(*), coalesce(sum(l.amount), 0)::bigint,
           sha256(convert_to('savings custody payout list', 'UTF8') || '\x00'::bytea || coalesce(string_agg(
               int8send(l.seq) || int2send(octet_length(l.account)::smallint) || convert_to(l.account, 'UTF8')
               || int8send(l.amount), '' order by l.seq), ''))
    from payout_list(p_wallet, p_first, p_last, p_limit) as l
$$;

create function current_policy() returns custody_policy
language sql stable set search_path = public, pg_temp as $$
    select p from custody_policy p order by p.version desc limit 1
$$;

create function new_policy(p_cause text) returns bigint
language sql volatile set search_path = public, pg_temp as $$
    insert into custody_policy (version, required, lifetime, cause)
        select p.version + 1, p.required, p.lifetime, p_cause from current_policy() p
        returning version
$$;

-- For the operator alone (nobody is granted these): ends a signer's key. What it signed and is not paid yet does not
-- count any more. After `revoke_signer` the seat stays taken; `rotate_signer` opens it to a new key. Both wait for
-- payments under way, and give the new version of the policy.
create function revoke_signer(p_name text) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_version bigint;
begin
    lock table custody_policy in exclusive mode;
    update signer set vacant = false where name = p_name;
    if not found then
        raise exception 'there is no signer %', p_name using errcode = 'no_data_found';
    end if;
    v_version := new_policy('revoked ' || p_name);
    update signer_key set until = v_version, ended_at = clock_timestamp(), revoked = true
        where signer = p_name and until is null;
    return v_version;
end
$$;

create function rotate_signer(p_name text) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_version bigint;
begin
    lock table custody_policy in exclusive mode;
    update signer set vacant = true where name = p_name;
    if not found then
        raise exception 'there is no signer %', p_name using errcode = 'no_data_found';
    end if;
    v_version := new_policy('rotated ' || p_name);
    update signer_key set until = v_version, ended_at = clock_timestamp() where signer = p_name and until is null;
    return v_version;
end
$$;

create function set_custody_policy(p_required integer, p_lifetime interval) returns bigint
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    lock table custody_policy in exclusive mode;
    insert into custody_policy (version, required, lifetime, cause)
        select p.version + 1, p_required, p_lifetime, 'changed' from current_policy() p;
    return (current_policy()).version;
end
$$;

-- Who asks; a signer is its database role and can claim to be no other.
create function own_signer() returns text
language sql stable set search_path = public, pg_temp as $$
    select s.name from signer s where s.database_role = session_user
$$;

-- Enrols the caller's own key where its seat is vacant, and says how the key stands:
--   current   it counts
--   revoked   it was revoked; only the operator can open the seat again
--   replaced  it was rotated away, or another key has the seat
create function enrol_key(p_public_key bytea) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_name text := own_signer();
    v_key signer_key;
    v_version bigint;
begin
    select * into v_key from signer_key k where k.public_key = p_public_key;
    if found then
        return case when v_key.signer = v_name and v_key.until is null then 'current'
                    when v_key.revoked then 'revoked' else 'replaced' end;
    end if;
    perform from signer s where s.name = v_name and s.vacant;
    if not found then
        return 'replaced';
    end if;
    lock table custody_policy in exclusive mode;
    update signer set vacant = false where name = v_name and vacant;
    if not found then
        return 'replaced';
    end if;
    v_version := new_policy('enrolled ' || v_name);
    insert into signer_key (public_key, signer, since) values (p_public_key, v_name, v_version);
    return 'current';
end
$$;

-- What the caller has not signed yet, nor set aside as `p_except`: the oldest `p_limit` pending manifests with their
-- lists, and the policy in force.
create function pending_manifests(p_limit integer, p_except bytea[])
returns table (nonce bytea, batch bigint, encoding smallint, wallet text, digest bytea, count bigint, total bigint,
               head bigint, policy_version bigint, created_at timestamptz, expires_at timestamptz, canonical bytea,
               policy_in_force bigint, seqs bigint[], accounts text[], amounts bigint[], wallets text[])
language sql stable security definer set search_path = public, pg_temp as $$
    select m.nonce, m.batch, m.encoding, m.wallet, m.digest, m.count, m.total, m.head, m.policy_version, m.created_at,
           m.expires_at, m.canonical, (current_policy()).version, list.seqs, list.accounts, list.amounts, list.wallets
    from (
        select * from manifest p
        where p.status = 'pending' and p.expires_at > clock_timestamp() and p.nonce <> all (p_except)
          and not exists (select from signature s where s.manifest = p.nonce and s.signer = own_signer())
        order by p.batch limit least(p_limit, 16)
    ) as m
    join payout_batch b on b.number = m.batch
    cross join lateral (
        select coalesce(array_agg(l.seq order by l.seq), '{}') as seqs,
               coalesce(array_agg(l.account order by l.seq), '{}') as accounts,
               coalesce(array_agg(l.amount order by l.seq), '{}') as amounts,
               coalesce(array_agg(coalesce(a.wallet, '') order by l.seq), '{}') as wallets
        -- One more than a batch may have, so that a signer sees when there is more.
        from payout_list(b.wallet, b.first_seq, b.last_seq, 5001) as l left join account a on a.id = l.account
    ) as list
    where own_signer() is not null
    order by m.batch
$$;

-- Stores the caller's own signature, once. Outcomes: `stored`, `again` (it has one there), `key` (not the caller's
-- current key), `gone` (no such manifest is pending).
create function sign_manifest(p_batch bigint, p_nonce bytea, p_public_key bytea, p_value bytea) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
begin
    perform from signer_key k where k.public_key = p_public_key and k.signer = own_signer() and k.until is null;
    if not found then
        return 'key';
    end if;
    perform from manifest m where m.nonce = p_nonce and m.batch = p_batch and m.status = 'pending' for key share;
    if not found then
        return 'gone';
    end if;
    insert into signature (manifest, signer, public_key, batch, value)
        values (p_nonce, own_signer(), p_public_key, p_batch, p_value) on conflict do nothing;
    return case when found then 'stored' else 'again' end;
end
$$;

create function make_manifest(p_batch payout_batch) returns void
language plpgsql set search_path = public, pg_temp as $$
declare
    v_policy custody_policy := current_policy();
    v_new manifest;
begin
    v_new.nonce := uuid_send(gen_random_uuid());
    v_new.batch := p_batch.number;
    v_new.encoding := 1;
    v_new.wallet := p_batch.wallet;
    v_new.digest := p_batch.digest;
    v_new.count := p_batch.count;
    v_new.total := p_batch.total;
    select coalesce(max(t.seq), 0) into v_new.head from transfer t;
    v_new.policy_version := v_policy.version;
    v_new.created_at := clock_timestamp();
    v_new.expires_at := v_new.created_at + v_policy.lifetime;
    v_new.status := 'pending';
    v_new.canonical := manifest_bytes(v_new);
    insert into manifest values (v_new.*);
end
$$;

-- Whether nobody can sign or pay a manifest any more. One that was made in the future was made before the wall clock was
-- set back: no signer signs it, and it would seem good for as long as that.
create function is_over(p_manifest manifest) returns boolean
language sql volatile set search_path = public, pg_temp as $$
    select clock_timestamp() not between p_manifest.created_at and p_manifest.expires_at
$$;

-- Gathers settled redemptions into a batch of at most 5,000, one a call, and gives every unpaid batch a manifest that
-- can still be signed; gives the number of manifests made. A batch that is not full waits until the one before it is
-- half a second old, because the last of a long queue should not wait longer, and paid; at most eight of a wallet wait
-- for signers, the rest stays in the queue.
create function propose_payouts(p_token bigint) returns integer
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_version bigint := (current_policy()).version;
    v_decided bigint;
    v_progress payout_progress;
    v_list record;
    v_batch payout_batch;
    v_made integer := 0;
begin
    -- Asked many times a second: nothing is locked while there is nothing to do.
    perform from payout_progress p, settlement s where p.considered < s.decided;
    if not found then
        perform from manifest m
            where m.status = 'pending' and (is_over(m) or m.policy_version <> v_version);
        if not found then
            return 0;
        end if;
    end if;
    perform require_lease('settlement', p_token);
    if not settling_is_on() then
        return 0;
    end if;
    lock table custody_policy in share mode;
    v_version := (current_policy()).version;

    for v_batch in
        with closed as (
            update manifest m
            set status = 'refused', closed_at = clock_timestamp(),
                reason = case when is_over(m) then 'expired' else 'policy' end
            where m.status = 'pending' and (is_over(m) or m.policy_version <> v_version)
            returning m.batch
        )
        select b.* from closed c join payout_batch b on b.number = c.batch where b.transfer is null order by b.number
    loop
        perform make_manifest(v_batch);
        v_made := v_made + 1;
    end loop;

    select s.decided into strict v_decided from settlement s;
    for v_progress in
        select * from payout_progress p where p.considered < v_decided order by p.proposed_at, p.wallet for update
    loop
        perform from payout_batch b where b.wallet = v_progress.wallet and b.transfer is null
            having count(*) >= 8 or bool_or(b.count < 5000);
        continue when found;
        select * into v_list
            from payout_digest(v_progress.wallet, v_progress.considered + 1, v_decided, 5000);
        continue when v_list.count between 1 and 4999
            and v_progress.proposed_at between clock_timestamp() - interval '500 milliseconds' and clock_timestamp();
        update payout_progress
            set considered = case when v_list.count = 5000 then v_list.last_seq else v_decided end,
                proposed_at = case when v_list.count > 0 then clock_timestamp() else proposed_at end
            where wallet = v_progress.wallet;
        continue when v_list.count = 0;
        insert into payout_batch (wallet, first_seq, last_seq, count, total, digest)
            values (v_progress.wallet, v_list.first_seq, v_list.last_seq, v_list.count, v_list.total, v_list.digest)
            returning * into v_batch;
        perform make_manifest(v_batch);
        v_made := v_made + 1;
        exit;
    end loop;
    return v_made;
end
$$;

-- The pending manifests that as many signed as are required, with what was signed.
create function signed_manifests()
returns table (nonce bytea, batch bigint, encoding smallint, wallet text, digest bytea, count bigint, total bigint,
               head bigint, policy_version bigint, created_at timestamptz, expires_at timestamptz, canonical bytea,
               paid boolean, signers text[], public_keys bytea[], batches bigint[], signatures bytea[])
language sql stable security definer set search_path = public, pg_temp as $$
    select m.nonce, m.batch, m.encoding, m.wallet, m.digest, m.count, m.total, m.head, m.policy_version, m.created_at,
           m.expires_at, m.canonical,
           b.transfer is not null or exists (select from transfer t where t.payout = b.number), array_agg(s.signer order by s.signer),
           array_agg(s.public_key order by s.signer), array_agg(s.batch order by s.signer),
           array_agg(s.value order by s.signer)
    from manifest m join payout_batch b on b.number = m.batch join signature s on s.manifest = m.nonce
    where m.status = 'pending'
    group by m.nonce, b.number
    having count(*) >= (current_policy()).required
    order by m.batch
$$;

-- The policy in force and every key there ever was.
create function custody_keys()
returns table (version bigint, required integer, signers text[], public_keys bytea[], since bigint[], until bigint[],
               revoked boolean[])
language sql stable security definer set search_path = public, pg_temp as $$
    select p.version, p.required, coalesce(array_agg(k.signer) filter (where k.signer is not null), '{}'),
           coalesce(array_agg(k.public_key) filter (where k.signer is not null), '{}'),
           coalesce(array_agg(k.since) filter (where k.signer is not null), '{}'),
           coalesce(array_agg(k.until) filter (where k.signer is not null), '{}'),
           coalesce(array_agg(k.revoked) filter (where k.signer is not null), '{}')
    from current_policy() p left join signer_key k on true
    group by p.version, p.required
$$;

-- Pays a batch under the manifest `p_nonce`, whose signatures by `p_signers` the caller has verified; gives `paid`, or
-- why not, in the words of domain/custody.py, or `closed` while nothing is settled. Everything but the signatures' arithmetic is checked again here.
create function pay_out(p_token bigint, p_batch bigint, p_nonce bytea, p_signers text[]) returns text
language plpgsql security definer set search_path = public, pg_temp as $$
declare
    v_policy custody_policy;
    v_batch payout_batch;
    v_manifest manifest;
    v_list record;
    v_transfer bigint;
begin
    perform require_lease('settlement', p_token);
    -- Whoever closes the service, or shuts the gate because the ledger is wrong, waits for this payout; none follows.
    perform from service_state for share;
    if not settling_is_on() then
        return 'closed';
    end if;
    -- No key ends and no rule changes between here and the commit.
    lock table custody_policy in share mode;
    v_policy := current_policy();
    -- Of a batch one manifest is pending: whoever else would pay the batch, or close the manifest, waits for it here. The
    -- batch is looked at afterwards, and changes with nothing but its payment.
    select * into v_manifest from manifest m where m.nonce = p_nonce for update;
    select * into v_batch from payout_batch b where b.number = p_batch;
    if v_batch.number is null or v_manifest.batch is distinct from p_batch then
        return 'another_batch';
    elsif v_batch.transfer is not null or exists (select from transfer t where t.payout = p_batch) then
        return 'reused';
    elsif v_manifest.status <> 'pending' then
        return 'another_manifest';
    elsif v_manifest.expires_at <= clock_timestamp() then
        return 'expired';
    elsif v_manifest.policy_version <> v_policy.version then
        return 'policy';
    end if;

    select * into v_list from payout_digest(v_batch.wallet, v_batch.first_seq, v_batch.last_seq, 5001);
    if (v_list.first_seq, v_list.last_seq, v_batch.wallet, v_list.count, v_list.total, v_list.digest)
        is distinct from (v_batch.first_seq, v_batch.last_seq, v_manifest.wallet, v_manifest.count, v_manifest.total,
                          v_manifest.digest)
        or v_manifest.canonical is distinct from manifest_bytes(v_manifest) then
        return 'altered';
    end if;
    perform from signature s join signer_key k on k.public_key = s.public_key and k.signer = s.signer
        where s.manifest = p_nonce and s.batch = p_batch and s.signer = any (p_signers) and k.until is null
        having count(distinct s.signer) >= v_policy.required;
    if not found then
        return 'too_few';
    end if;

    insert into transfer (kind, debit_account, credit_account, amount, payout)
        values ('payout', 'payable-' || v_batch.wallet, 'custody-' || v_batch.wallet, v_manifest.total, p_batch)
        returning seq into v_transfer;
    update payout_batch set transfer = v_transfer, manifest = p_nonce, paid_at = clock_timestamp()
        where number = p_batch;
    update manifest set status = 'paid', closed_at = clock_timestamp() where nonce = p_nonce;
    return 'paid';
end
$$;

-- How many batches wait for signatures, are signed, are paid; the age of the oldest unpaid one, 0 without one.
create function payout_figures()
returns table (waiting bigint, signed bigint, paid bigint, oldest_age_seconds double precision)
language sql stable security definer set search_path = public, pg_temp as $$
    with unpaid as (
        select b.proposed_at, count(s.signer) >= (current_policy()).required as enough
        from payout_batch b
        left join manifest m on m.batch = b.number and m.status = 'pending'
        left join signature s on s.manifest = m.nonce
        where b.transfer is null
        group by b.number
    )
    select count(*) filter (where not u.enough), count(*) filter (where u.enough),
           (select count(b.transfer) from payout_batch b),
           coalesce(greatest(extract(epoch from clock_timestamp() - min(u.proposed_at)), 0), 0)::double precision
    from unpaid u
$$;

-- For the audit: every payout and every batch numbered from `p_after` + 1 to `p_last`, each beside what its rows say
-- now. `unlisted` is a settled redemption between this batch and the one before it in its wallet: it is in none.
create function audit_payouts(p_after bigint, p_last bigint)
returns table (number bigint, batch_wallet text, first_seq bigint, last_seq bigint, transfer bigint, unlisted bigint,
               after_seq bigint, debit text, credit text, amount bigint, recorded_at timestamptz, transfer_seq bigint,
               list_first bigint, list_last bigint, list_count bigint, list_total bigint, list_digest bytea,
               nonce bytea, batch bigint, encoding smallint, wallet text, digest bytea, count bigint,
               total bigint, head bigint, policy_version bigint, created_at timestamptz, expires_at timestamptz,
               canonical bytea, status text, signers text[], public_keys bytea[], batches bigint[], signatures bytea[])
language sql stable security definer set search_path = public, pg_temp as $$
    select coalesce(b.number, t.payout), b.wallet, b.first_seq, b.last_seq, b.transfer, gap.seq,
           b.after_seq, t.debit_account, t.credit_account, t.amount, t.recorded_at, t.seq,
           l.first_seq, l.last_seq, l.count, l.total, l.digest,
           m.nonce, m.batch, m.encoding, m.wallet, m.digest, m.count, m.total, m.head, m.policy_version, m.created_at,
           m.expires_at, m.canonical, m.status, s.signers, s.public_keys, s.batches, s.signatures
    from (select p.*, coalesce(lag(p.last_seq) over (partition by p.wallet order by p.number), 0) as after_seq
          from payout_batch p) as b
    full join (select * from transfer p where p.payout is not null) as t on t.payout = b.number
    left join lateral payout_digest(b.wallet, b.first_seq, b.last_seq, 5001) as l on b.number is not null
    left join lateral payout_list(b.wallet, b.after_seq + 1, b.first_seq - 1, 1) as gap on b.number is not null
    left join manifest m on m.nonce = b.manifest
    left join lateral (
        select array_agg(g.signer order by g.signer) as signers, array_agg(g.public_key order by g.signer) as public_keys,
               array_agg(g.batch order by g.signer) as batches, array_agg(g.value order by g.signer) as signatures
        from signature g where g.manifest = m.nonce
    ) as s on true
    where coalesce(b.number, t.payout) > p_after and coalesce(b.number, t.payout) <= p_last
    order by 1
$$;

-- For the audit: each wallet's newest batch, 0 without one, and a settled redemption after it that was passed over, null
-- when there is none.
create function audit_progress()
returns table (wallet text, newest bigint, considered bigint, unlisted bigint) language sql stable security definer
set search_path = public, pg_temp as $$
    select p.wallet, newest.number, p.considered, l.seq
    from payout_progress p
    cross join lateral (
        select coalesce(max(b.last_seq), 0) as last_seq, coalesce(max(b.number), 0) as number from payout_batch b where b.wallet = p.wallet
    ) as newest
    left join lateral payout_list(p.wallet, newest.last_seq + 1, p.considered, 1) as l on true
$$;

create function audit_policies()
returns table (version bigint, required integer) language sql stable security definer
set search_path = public, pg_temp as $$
    select p.version, p.required from custody_policy p
$$;

revoke all on function
    payout_list(text, bigint, bigint, integer), payout_digest(text, bigint, bigint, integer), manifest_bytes(manifest),
    current_policy(), new_policy(text), revoke_signer(text), rotate_signer(text), set_custody_policy(integer, interval),
    own_signer(), make_manifest(payout_batch), is_over(manifest), guard_custody()
    from public;
grant execute on function
    enrol_key(bytea), pending_manifests(integer, bytea[]), sign_manifest(bigint, bytea, bytea, bytea)
    to savings_signer_1, savings_signer_2, savings_signer_3;
grant execute on function
    propose_payouts(bigint), signed_manifests(), custody_keys(), pay_out(bigint, bigint, bytea, text[]),
    payout_figures()
    to savings_settlement;
grant execute on function custody_keys(), audit_payouts(bigint, bigint), audit_progress(), audit_policies(), payout_figures()
    to savings_auditor, savings_maintenance;
grant select on signer, custody_policy, signer_key, payout_progress, payout_batch, manifest, signature
    to savings_auditor;
