"""`python -m tests.ray.asking_script URL FILE`: ask for predictions without a pause; a line per answer."""

from __future__ import annotations

import sys
import time

import httpx

ROWS = [{f"x{i}": float(i % 3) for i in range(8)}]

if __name__ == "__main__":
    url, file = sys.argv[1:]
    with open(file, "a", buffering=1) as out:
        while True:
            began = time.time()
            try:
                answer = httpx.post(f"{url}/v1/predict", json={"rows": ROWS}, timeout=3)
                version = answer.json()["version"] if answer.status_code == 200 else 0
            except (httpx.HTTPError, ValueError):
                version = 0
            out.write(f"{began} {version}\n")
            time.sleep(0.02)
