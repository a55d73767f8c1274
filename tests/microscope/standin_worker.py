"""Speaks the worker's protocol without a model, and fails in each of the ways a worker can, chosen by the prompt."""

import json
import os
import sys
import time

from synthetic_run import feature, lens_data

for line in sys.stdin:
    request = json.loads(line)
    prompt = request.get("prompt")
    if prompt == "die":
        print("out of memory: the model is too large", file=sys.stderr, flush=True)
        os._exit(3)
    if prompt == "hang":
        time.sleep(60)
    if prompt and prompt.startswith("wait"):
        time.sleep(0.15)
    if prompt == "refuse":
        reply = {"id": request["id"], "error": "The prompt has 900 tokens, the model reads 256: shorten it."}
    elif request["ask"] == "feature":
        page = {**feature(request["feature"]), "tokens_seen": request["tokens"]}
        reply = {"id": request["id"], "ok": page}
    else:
        found = {"summary": f"Lens of {prompt!r} by process {os.getpid()}.", "data": lens_data(prompt)}
        notes = ["The prompt is longer than the 512 tokens the model was trained on."] if prompt == "a note" else []
        found |= {"notes": notes, "checkpoint": os.path.basename(request["checkpoint"])}
        reply = {"id": request["id"], "ok": found}
    print(json.dumps(reply), flush=True)
