"""The list of calls as one page, made here: nothing is loaded from anywhere else, and no script runs."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from html import escape
from typing import Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;"
    "background:#fff}code{font:14px/1.5 ui-monospace,monospace}h2{margin-top:2rem;text-transform:capitalize}"
    "dt{margin-top:1rem}dt b{display:inline-block;min-width:4.5rem}dd{margin-left:4.5rem}"
    "a{color:#0b57d0}@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#15181c}a{color:#8ab4f8}}"
)
_STYLE_HASH: Final = b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_HEADERS: Final = {
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Frame-Options": "DENY",
}
"""The page may use its own style sheet, by its hash, and nothing else."""

router = APIRouter(include_in_schema=False)


@router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Every operation of the application, grouped by tag."""
    return HTMLResponse(_page(request.app.openapi()), headers=PAGE_HEADERS)


def _page(schema: dict[str, Any]) -> str:
    groups: dict[str, list[str]] = {}
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            tag = (operation.get("tags") or ["other"])[0]
            groups.setdefault(tag, []).append(_operation(method, path, operation))
    sections = "".join(f"<h2>{escape(tag)}</h2><dl>{''.join(items)}</dl>" for tag, items in groups.items())
    title = escape(schema["info"]["title"])
    version = escape(schema["info"]["version"])
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head><body>'
        f"<h1>{title} {version}</h1><p>The calls of this service. For tools: "
        f'<a href="openapi.json">openapi.json</a>. Errors are problems as RFC 9457 describes them.</p>'
        f"{sections}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    text = escape(operation.get("description") or operation.get("summary") or "")
    answers = ", ".join(escape(code) for code in operation.get("responses", {}))
    named = [escape(each["name"]) for each in operation.get("parameters", ()) if each["in"] in {"query", "header"}]
    takes = f"<br>Takes: <code>{', '.join(named)}</code>" if named else ""
    key = " Needs a key where keys are set." if operation.get("security") else ""
    return (
        f"<dt><b>{escape(method.upper())}</b> <code>{escape(path)}</code></dt>"
        f"<dd>{text}{key}{takes}<br>Answers: {answers}</dd>"
    )
