"""What curl asks, without a library of its own. Run with the path of curl; see report.py."""

import json
import subprocess
import sys
from typing import Any

import numpy as np
from report import Report

CURL = sys.argv[1]
MANY = 1000


class Tried:
    """curl, row by row."""

    def __init__(self, report: Report) -> None:
        self.report = report

    def ask(self, path: str, *options: str, body: Any = None) -> tuple[int, Any]:
        """Return the status and the JSON of an answer; body: sent as JSON."""
        command = [CURL, "-sS", "--max-time", "20", "-w", "\n%{http_code}", *options]
        if body is not None:
            command += ["--json", "@-"]
        done = subprocess.run(
            [*command, f"http://{self.report.rest}{path}"],
            input=None if body is None else json.dumps(body),
            capture_output=True,
            text=True,
            check=True,
        )
        answer, _, status = done.stdout.rpartition("\n")
        return int(status), json.loads(answer) if answer else None

    def infer(self, rows: np.ndarray, *options: str, model: str = "", **more: Any) -> Any:
        # One flat list, where nested ones are limited.
        data = rows.tolist() if len(rows) < MANY else rows.ravel().tolist()
        entry = {"name": "x", "datatype": "FP32", "shape": list(rows.shape), "data": data}
        path = f"/v2/models/{model or self.report.model}/infer"
        status, answer = self.ask(path, *options, body={"inputs": [entry], **more})
        assert status == 200, answer
        return answer

    def keep(self, way: str, answer: Any) -> None:
        found = {o["name"]: np.reshape(o["data"], o["shape"]) for o in answer["outputs"]}
        self.report.predicted(way, found)

    def server(self) -> None:
        row, ask, model = self.report.row, self.ask, self.report.model
        with row("ServerLive"):
            assert ask("/v2/health/live") == (200, {"live": True})
        with row("ServerReady"):
            assert ask("/v2/health/ready") == (200, {"ready": True})
        with row("ServerMetadata"):
            assert ask("/v2")[1]["name"] == "forwardpass"
        with row("ModelReady"):
            assert ask(f"/v2/models/{model}/ready")[0] == 200
            assert ask("/v2/models/nobody/ready")[0] == 503
        with row("ModelMetadata"):
            assert ask(f"/v2/models/{model}")[1]["inputs"][0]["datatype"] == "FP32"
        with row("ModelConfig"):
            assert ask(f"/v2/models/{model}/config")[1]["name"] == model
        with row("RepositoryIndex"):
            assert model in {each["name"] for each in ask("/v2/repository/index", body={})[1]}
        with row("LogSettings"):
            assert ask("/v2/logging")[0] == 200
        with row("RepositoryModelLoad", "RepositoryModelUnload"):
            for what, status in (("unload", 503), ("load", 200)):
                assert ask(f"/v2/repository/models/{model}/{what}", body={}) == (200, {})
                assert ask(f"/v2/models/{model}/ready")[0] == status

    def ways(self) -> None:
        row, x, model = self.report.row, self.report.x, self.report.model
        with row("JSON"):
            self.keep("json", self.infer(x))
        with row("compressed"):
            self.keep("compressed", self.infer(x, "--compressed"))
        with row("chosen outputs"):
            chosen = self.infer(x[:1], outputs=[{"name": "worst"}])["outputs"]
            assert [each["name"] for each in chosen] == ["worst"]
        with row("a version"):
            rows = np.array([[1, 2, 3]], np.float32)
            for path, answer in (("versions", [14.5, 31.5]), ("versions/versions/1", [1, 2, 3])):
                assert self.infer(rows, model=path)["outputs"][0]["data"] == answer
        with row("the request's id"):
            assert self.infer(x[:1], id="17")["id"] == "17"
        with row("parameters"):
            found = self.infer(x[:1], parameters={"mine": "text", "number": 7, "flag": True})
            assert found["outputs"]
        with row("1,000 rows"):
            found = self.infer(np.resize(x, (MANY, x.shape[1])), "-H", "Expect: 100-continue")
            assert {output["shape"][0] for output in found["outputs"]} == {MANY}
        with row("named features"):
            status, metadata = self.ask(f"/v2/models/{model}")
            labels = json.loads(metadata["properties"]["forwardpass.inputs"])["x"]["labels"]
            body = dict(zip(labels, x[0].tolist(), strict=True))
            status, answer = self.ask(f"/v2/models/{model}:predict", body=body)
            assert status == 200
            assert answer["predictions"][0]["malignancy"]["label"]
        with row("errors"):
            assert self.ask("/v2/models/nobody/infer", body={"inputs": []})[0] == 404
            assert self.ask(f"/v2/models/{model}/infer", body={"inputs": []})[0] == 400
        with row("ModelStatistics"):
            status, found = self.ask(f"/v2/models/{model}/stats")
            assert found["model_stats"][0]["inference_stats"]["success"]["count"] > 0


def main() -> None:
    with Report("curl", "") as report:
        tried = Tried(report)
        tried.server()
        tried.ways()


main()
