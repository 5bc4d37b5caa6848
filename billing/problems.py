"""What keeps an invoice from being made, issued or changed."""


class InvoiceError(Exception):
    """Why an invoice can't be drafted, finalized or settled, in words for staff."""
