"""Payments, refunds, bills and the ledger of them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Index, LargeBinary, String, Table, text

from booking.store.tables.columns import check, flag, key, metadata, ms, string

# Money that the HIS has not booked yet, and that does not go back; a query must say these very words.
UNSETTLED = "(settlement = 'pending' or settlement = 'unknown') and returned_fen < amount_fen"

# `kept`: it pays for its purpose. `settlement`: how far the HIS has booked it.
payments = Table(
    "payments",
    metadata,
    key("hospital_id"),
    Column("channel", String(32), primary_key=True),
    Column("trade_no", String(128), primary_key=True),
    # The bill that this piece is for, where one payment was for several bills (合并支付); empty where it is for one thing.
    Column("piece", String(64), primary_key=True, server_default=text("''")),
    string("client_id"),
    string("booking_id", null=True),
    string("bill_id", null=True),
    Column("amount_fen", BigInteger, nullable=False),
    ms("paid_at_ms", null=False),
    flag("kept"),
    string("settlement"),
    string("unusable", null=True),
    ms("created_ms", null=False),
    # What of it is to go back, or has: the sum of its refunds, moved by whatever writes one.
    Column("returned_fen", BigInteger, nullable=False, server_default="0"),
    check("amount_fen > 0", name="amount"),
    check("returned_fen >= 0 and returned_fen <= amount_fen", name="returned"),
    check("settlement in ('none','pending','settled','rejected','unknown')", name="settlement"),
    check("(booking_id is null) <> (bill_id is null)", name="one_purpose"),
    check("kept or settlement in ('none','rejected')", name="only_kept_is_settled"),
    check("unusable is null or not kept", name="unusable_is_not_kept"),
    check("piece = '' or (bill_id is not null and piece = bill_id)", name="piece"),
    Index("ux_payments_booking", "hospital_id", "booking_id", unique=True, sqlite_where=text("kept = 1"),
          postgresql_where=text("kept")),
    Index("ux_payments_bill", "hospital_id", "bill_id", unique=True, sqlite_where=text("kept = 1"),
          postgresql_where=text("kept")),
    Index(None, "hospital_id", "booking_id"),
    Index(None, "hospital_id", "bill_id"),
    Index(None, "hospital_id", "paid_at_ms"),
    Index("ix_payments_unsettled", "hospital_id", "created_ms", sqlite_where=text(UNSETTLED),
          postgresql_where=text(UNSETTLED)),
)  # fmt: skip

# What has not gone back yet, or what the HIS does not know of; a query must say these very words.
# Each is said by itself: PostgreSQL takes "not refunded" for nearly all as long as it has no statistics.
OPEN_REFUND = (
    "status = 'refund_due' or status = 'refunding' or status = 'refund_unknown' or status = 'refund_failed'"
    " or his = 'pending' or his = 'unknown' or his = 'rejected'"
)

refunds = Table(
    "refunds",
    metadata,
    key("hospital_id"),
    key("id"),
    string("channel"),
    string("trade_no"),
    string("client_id"),
    string("booking_id", null=True),
    string("bill_id", null=True),
    Column("amount_fen", BigInteger, nullable=False),
    string("status"),
    string("reason"),
    string("refund_trade_no", null=True),
    ms("created_ms", null=False),
    ms("updated_ms", null=False),
    # Whether the HIS has been told of it: none where there is nothing to tell, or no way.
    string("his", default="none"),
    string("his_code", null=True),  # why it is rejected
    string("his_refund_no", null=True),  # its number of it, where it has told of one that a portal began
    Column("piece", String(64), nullable=False, server_default=text("''")),  # of the payment
    check("his in ('none','pending','unknown','told','rejected')", name="his"),
    check("amount_fen > 0", name="amount"),
    check(
        "status in ('refund_due','refunding','refunded','refund_unknown','refund_failed')",
        name="status",
    ),
    check("(booking_id is null) <> (bill_id is null)", name="one_purpose"),
    Index(None, "hospital_id", "channel", "trade_no"),
    Index(None, "hospital_id", "booking_id"),
    Index(None, "hospital_id", "bill_id"),
    Index(None, "hospital_id", "updated_ms"),
    Index("ix_refunds_open", "hospital_id", "created_ms", sqlite_where=text(OPEN_REFUND),
          postgresql_where=text(OPEN_REFUND)),
)  # fmt: skip

# Double entry, one movement a row: `amount_fen` goes from the account `credit` to the account `debit`, so that no row can be out
# of balance; see booking.ledger. Rows are added, and never altered or deleted.
ledger = Table(
    "ledger",
    metadata,
    key("hospital_id"),
    Column("channel", String(32), primary_key=True),
    Column("trade_no", String(128), primary_key=True),
    Column("entry", String(16), primary_key=True),
    Column("refund_id", String(64), primary_key=True),  # empty for what is of no refund
    Column("piece", String(64), primary_key=True, server_default=text("''")),  # of the payment
    string("debit"),
    string("credit"),
    Column("amount_fen", BigInteger, nullable=False),
    ms("at_ms", null=False),
    check("amount_fen > 0", name="amount"),
    check(
        "case entry when 'received' then debit = 'merchant_clearing' and credit = 'receipts' and refund_id = ''"
        " when 'settled' then debit = 'receipts' and credit = 'his_settlement' and refund_id = ''"
        " when 'refund_due' then debit in ('receipts','his_settlement') and credit = 'refunds_payable' and refund_id <> ''"
        " when 'refunded' then debit = 'refunds_payable' and credit = 'merchant_clearing' and refund_id <> ''"
        " else false end",
        name="entry",
    ),
)

bills = Table(
    "bills",
    metadata,
    key("hospital_id"),
    key("id"),
    string("his_id"),
    string("mrn_digest"),
    Column("amount_fen", BigInteger, nullable=False),
    string("currency"),
    string("status"),
    string("order_no"),
    Column("sealed_record", LargeBinary, nullable=False),
    Column("sealed_settlement", LargeBinary, nullable=True),
    ms("updated_ms", null=False),
    # What the insurance pays and what the patient, as the HIS last calculated it (医保预结算).
    Column("sealed_split", LargeBinary, nullable=True),
    Index(None, "hospital_id", "mrn_digest"),
)

# Bills of which the insurance pays all, and that a portal asked to settle: there is no money of the patient's to record.
insured_settlements = Table(
    "insured_settlements",
    metadata,
    key("hospital_id"),
    key("bill_id"),
    string("client_id"),
    string("settlement"),
    ms("asked_ms", null=False),
    check("settlement in ('pending','settled','rejected','unknown')", name="settlement"),
)
