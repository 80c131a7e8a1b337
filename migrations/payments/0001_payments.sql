-- payment-service: what is paid for which order, and a ledger that always sums to zero.
--
-- The schema is created by the migrator (payment-service/sqlx.toml). Only
-- payment-service/src/table.rs speaks to these tables.

-- One payment of an order. Its row is what a command locks: whoever captures or releases takes it
-- `for update` first, so that the two cannot both happen.
create table payments.payment (
    id             uuid        not null,
    order_id       uuid        not null,
    customer_id    uuid        not null,
    -- The provider's token, never a card number.
    payment_method text        not null,
    -- Minor units.
    amount         bigint      not null,
    currency       text        not null,
    status         text        not null,
    created_at     timestamptz not null default now(),
    updated_at     timestamptz not null default now(),
    constraint payment_pkey primary key (id),
    -- An order is paid once, whatever sends the command again. Also the way to find it: every
    -- command and every question names the order.
    constraint payment_order_id_key unique (order_id),
    constraint payment_amount_check check (amount > 0),
    constraint payment_currency_check check (currency ~ '^[A-Z]{3}$'),
    -- authorized: the money is held. captured: it is the merchant's. released: it is back.
    constraint payment_status_check check (status in ('authorized', 'captured', 'released'))
) with (fillfactor = 80); -- updated once, in columns without an index: stays on its page

-- The holds of the ledger page: few rows of many.
create index payment_held_idx on payments.payment (id) where status = 'authorized';

-- Double entry: a transaction moves money between accounts, and its lines sum to zero.
-- Accounts are names, not rows, and a balance is a sum: there is no second truth to keep in step,
-- and no row that all customers would queue at.
--   customer:<id>  what a customer is owed; negative: what he has paid or promised
--   held:<id>      held of a customer, neither his nor the merchant's
--   merchant       taken
create table payments.entry (
    transaction_id uuid        not null,
    line           smallint    not null,
    payment_id     uuid        not null,
    account        text        not null,
    -- Minor units; positive: into the account, negative: out of it.
    amount         bigint      not null,
    currency       text        not null,
    created_at     timestamptz not null default now(),
    constraint entry_pkey primary key (transaction_id, line),
    constraint entry_payment_id_fkey foreign key (payment_id) references payments.payment (id),
    constraint entry_amount_check check (amount <> 0),
    constraint entry_currency_check check (currency ~ '^[A-Z]{3}$')
);

-- Balances are sums by account: read from this index alone.
create index entry_account_idx on payments.entry (account, currency) include (amount);
-- What happened to one payment.
create index entry_payment_id_idx on payments.entry (payment_id);

-- The sum is checked by the database, for whoever writes, over the rows of one statement: a
-- transaction's lines are inserted together. Not a deferred constraint trigger: that fails at
-- commit, where a whole batch of commands would fall with one, and it runs once per line.
create function payments.refuse_unbalanced() returns trigger
    language plpgsql
as
$$
declare
    unbalanced record;
begin
    select transaction_id, currency, sum(amount) as total
    into unbalanced
    from written
    group by transaction_id, currency
    having sum(amount) <> 0
    limit 1;
    if found then
        raise exception 'ledger transaction % does not sum to zero: % %',
            unbalanced.transaction_id, unbalanced.total, unbalanced.currency
            using errcode = 'check_violation', constraint = 'entry_balanced';
    end if;
    return null;
end;
$$;

create trigger entry_balanced
    after insert on payments.entry
    referencing new table as written
    for each statement
execute function payments.refuse_unbalanced();

-- A ledger is corrected by another transaction, never by a changed line.
create function payments.refuse_change() returns trigger
    language plpgsql
as
$$
begin
    raise exception 'the ledger is append-only'
        using errcode = 'restrict_violation', constraint = 'entry_append_only';
end;
$$;

create trigger entry_append_only
    before update or delete or truncate on payments.entry
    for each statement
execute function payments.refuse_change();
