"""Two tokens for one gateway: the operators' own, and one made of it that can only ask.

Who operates a gateway can always tell callers theirs. From theirs nobody gets to the operators'.
"""

import hmac
from hashlib import sha256


def of_callers(operators: str) -> str:
    """The token for those who ask a route, and may change nothing."""
    return hmac.new(operators.encode(), b"callers of the gateway", sha256).hexdigest()


def same(given: str, known: str) -> bool:
    """Whether a header shows this token; how wrong it is can't be learned from the time."""
    scheme, _, shown = given.partition(" ")
    right = hmac.compare_digest(shown.encode(errors="surrogateescape"), known.encode())
    return right and scheme.lower() == "bearer"
