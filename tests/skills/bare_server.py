"""An MCP server by hand, which the SDK would not let be so wrong: `python bare_server.py MODE`, over stdio.

It answers `initialize`. Asked for `tools/list` it is then mute, or refuses, or answers with nonsense, or ends, or has always
another page (endless); in the mode "chatty" it lists a tool `talk`, each call of which writes a megabyte to standard error
and then a line that it numbers.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

talks = 0


def listed(mode: str) -> dict[str, Any]:
    if mode == "end":
        print("bare: out of tools", file=sys.stderr, flush=True)
        os._exit(3)
    if mode == "refuse":
        return {"error": {"code": -32603, "message": "no tools today"}}
    if mode == "nonsense":
        return {"result": {"tools": "many"}}
    more = {"nextCursor": "more"} if mode == "endless" else {}
    return {"result": {"tools": [{"name": "talk", "inputSchema": {"type": "object"}}], **more}}


def talk() -> dict[str, Any]:
    global talks
    talks += 1
    sys.stderr.write("word " * 2**18 + f"\ntalk {talks}\n")
    sys.stderr.flush()
    return {"result": {"content": [{"type": "text", "text": "said"}]}}


def answer(mode: str, request: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what is sent back beside the id, None for nothing."""
    method = request["method"]
    if "id" not in request or (method == "tools/list" and mode == "mute"):
        return None
    if method == "initialize":
        told = {"protocolVersion": request["params"]["protocolVersion"], "capabilities": {"tools": {}}}
        return {"result": {**told, "serverInfo": {"name": "bare", "version": "1"}}}
    if method == "tools/list":
        return listed(mode)
    if method == "tools/call":
        return talk()
    return {"error": {"code": -32601, "message": f"no method {method}"}}


if __name__ == "__main__":
    for line in sys.stdin:
        question = json.loads(line)
        found = answer(sys.argv[1], question)
        if found is not None:
            print(json.dumps({"jsonrpc": "2.0", "id": question["id"], **found}), flush=True)
