"""One comment of a pull request, written once and then updated; the standard library alone."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_PER_PAGE = 100
_TRIES = 3
_TIMEOUT_S = 30
_TRUSTED = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
"""Who may have written our comment, beside a bot: others could put our mark on one of theirs."""


class Refused(Exception):
    """GitHub did not do what it was asked; one line."""


@dataclass(frozen=True, kw_only=True)
class Api:
    """GitHub's REST API for one repository."""

    url: str
    repository: str
    token: str
    pause_s: float = 2.0

    def ask(self, method: str, path: str, body: Mapping[str, str] | None = None) -> Any:
        """Return the reply's JSON, None for an empty one; an overloaded server is asked again.

        Raises:
            Refused: it said no, or could not be reached.

        """
        request = urllib.request.Request(  # noqa: S310 # the API's URL, which GitHub's runner gives
            f"{self.url}/repos/{self.repository}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={
                "Accept": "application/vnd.github+json",
                "Authorization": f"Bearer {self.token}",
                "Content-Type": "application/json",
                "X-GitHub-Api-Version": "2022-11-28",
                "User-Agent": "pytest-quantgate",
            },
        )
        for tried in range(_TRIES):
            if tried:
                time.sleep(self.pause_s)
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310
                    return json.loads(reply.read() or b"null")
            except urllib.error.HTTPError as error:
                why = f"{method} {path}: HTTP {error.code} {error.reason}"
                if error.code < 500:
                    break
            except (OSError, ValueError) as error:
                why = f"{method} {path}: {error}"
        raise Refused(why)


def number_of(event: Mapping[str, Any]) -> int | None:
    """Return the number of the pull request that an event is about, None for none."""
    if "pull_request" in event:
        return int(event["pull_request"]["number"])
    issue = event.get("issue", {})
    return int(issue["number"]) if "pull_request" in issue else None


def put_comment(api: Api, number: int, mark: str, text: str) -> str:
    """Update the comment that begins with a mark, or write it; return its address.

    Of several (two runs at once wrote one each) the oldest stays.

    Raises:
        Refused: GitHub did not let us.

    """
    body = {"body": f"{mark}\n{text}"}
    ours = [item for item in _comments(api, number) if _is_ours(item, mark)]
    if not ours:
        return str(api.ask("POST", f"issues/{number}/comments", body)["html_url"])
    kept, *others = sorted(ours, key=lambda item: int(item["id"]))
    for other in others:
        api.ask("DELETE", f"issues/comments/{other['id']}")
    return str(api.ask("PATCH", f"issues/comments/{kept['id']}", body)["html_url"])


def _comments(api: Api, number: int) -> list[dict[str, Any]]:
    comments: list[dict[str, Any]] = []
    for page in range(1, 101):
        path = f"issues/{number}/comments?per_page={_PER_PAGE}&page={page}"
        on_page = api.ask("GET", path)
        comments += on_page
        if len(on_page) < _PER_PAGE:
            break
    return comments


def _is_ours(item: Mapping[str, Any], mark: str) -> bool:
    is_bot = item.get("user", {}).get("type") == "Bot"
    is_trusted = is_bot or item.get("author_association") in _TRUSTED
    return is_trusted and str(item.get("body", "")).startswith(f"{mark}\n")
