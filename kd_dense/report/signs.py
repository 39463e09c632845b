"""Signs of typography that look like others in code."""

TIMES = '\N{MULTIPLICATION SIGN}'
MINUS = '\N{MINUS SIGN}'
DASH = '\N{EN DASH}'
APOSTROPHE = '\N{RIGHT SINGLE QUOTATION MARK}'
THIN = '\N{NARROW NO-BREAK SPACE}'


def signed(value: float, style: str = '+.1f') -> str:
    """A number with its sign, a true minus."""
    return format(value, style).replace('-', MINUS)


def grouped(number: int) -> str:
    """A whole number with its thousands apart."""
    return f'{number:,}'.replace(',', THIN)
