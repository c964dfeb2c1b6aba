"""What this node did for others, for a person to read and for a program: `descord-relay contribution`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from actors.relay_table import stars
from protocol.reputation_messages import Contribution

#: GB below which two decimals show nothing.
LEAST_SHOWN: Final = 0.005


def to_json(told: Contribution) -> dict[str, Any]:
    """As an object of JSON.  ``months``: the current one, and those before it, the latest first.  ``credits``: over
    all of them, bytes that were relayed for others (``earned``) and that others relayed for this node (``spent``)."""
    months = (told.month, *told.earlier)
    return {
        "month": told.month.month,
        "bytes": told.month.carried,
        "circuits": told.month.circuits,
        "score": None if told.score is None else round(told.score, 1),
        "stars": stars(told.score),
        "credits": {
            "earned": sum(one.carried for one in months),
            "confirmed": sum(one.confirmed for one in months),
            "spent": sum(one.used for one in months),
        },
        "receipts": told.receipts,
        "months": [
            {
                "month": one.month,
                "bytes": one.carried,
                "circuits": one.circuits,
                "confirmed": one.confirmed,
                "used": one.used,
            }
            for one in months
        ],
    }


def to_text(answer: Mapping[str, Any]) -> str:
    """For a person, from what :func:`to_json` made."""
    reputation = "not rated yet" if answer["score"] is None else f"{answer['stars']} {answer['score']:.0f} of 100"
    earned, spent = (_gigabytes(answer["credits"][name]) for name in ("earned", "spent"))
    receipts = answer["receipts"]
    confirmed = f", {_gigabytes(answer['credits']['confirmed'])} of it signed by {receipts:,} peers" if receipts else ""
    return "\n".join(
        [
            f"Relayed this month  {_gigabytes(answer['bytes'])}",
            f"Circuits helped     {answer['circuits']:,}",
            f"Credits             {earned} earned{confirmed}, {spent} spent",
            f"Reputation          {reputation}",
        ]
    )


def _gigabytes(size: int) -> str:
    if 0 < size / 1e9 < LEAST_SHOWN:
        return "less than 0.01 GB"
    return f"{size / 1e9:,.2f} GB"
