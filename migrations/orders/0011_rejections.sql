-- Why an order was rejected, in a word for programs. The reason beside it is for the customer to read.

alter table orders.orders add column rejection text;

update orders.orders
set rejection = case
    when reason = 'The order exceeds the customer''s credit limit.' then 'credit_limit'
    when reason = 'The payment service did not answer in time.' then 'payment_unanswered'
    when reason = 'The delivery service did not answer in time.' then 'delivery_unanswered'
    when reason like 'cancelled by %' then 'cancelled'
    else 'other' end
where status = 'rejected';

-- `other`: orders from before this was recorded, and causes without a word of their own.
alter table orders.orders add constraint orders_rejection_check check (rejection in
    ('credit_limit', 'payment_refused', 'delivery_refused', 'payment_unanswered',
     'delivery_unanswered', 'cancelled', 'other'));
alter table orders.orders add constraint orders_rejection_of_rejected_check check
    (rejection is null or status = 'rejected');
