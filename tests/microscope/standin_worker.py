"""Speaks the worker's protocol without a model, and fails in each of the ways a worker can, chosen by the prompt."""

import json
import os
import sys
import time

from planted_run import lens_data

for line in sys.stdin:
    request = json.loads(line)
    prompt = request["prompt"]
    if prompt == "die":
        print("out of memory: the model is too large", file=sys.stderr, flush=True)
        os._exit(3)
    if prompt == "hang":
        time.sleep(60)
    if prompt == "refuse":
        reply = {"id": request["id"], "error": "The prompt has 900 tokens, the model reads 256: shorten it."}
    else:
        found = {"summary": f"Lens of {prompt!r} by process {os.getpid()}.", "data": lens_data(prompt)}
        reply = {"id": request["id"], "ok": found | {"checkpoint": os.path.basename(request["checkpoint"])}}
    print(json.dumps(reply), flush=True)
