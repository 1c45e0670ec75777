"""Joins what clients saw (`patchflow load --records`) with what the server says it did (its audit log), request by
request."""

import collections

from bench.load.fake_server import COUNTED, fake_image_sha256

# What the front end may say of a request whose client left: it may have been too late, or refused before.
LEFT = {"OK", "CANCELLED", "DEADLINE_EXCEEDED"}
ENDED_BY_CLIENT = {"cancel": "CANCELLED", "disconnect": "UNAVAILABLE", "deadline": "DEADLINE_EXCEEDED"}


class Join:
    """`faults` says what is wrong, by kind: lost, duplicated, crossed, disagree."""

    def __init__(self, records: list[dict], audit: list[dict], check_images: bool = True):
        self.faults = collections.defaultdict(list)
        self.outcomes = collections.Counter()
        self.reruns = sum(record["attempts"] > 1 for record in records)
        self.check_images = check_images
        self.calls = collections.defaultdict(list)
        self.generations = collections.defaultdict(list)
        for line in audit:
            if line["event"] == "generation":
                self.generations[line["request_id"]].append(line)
            elif line["event"] == "lost":
                self._fault("lost", f"{line['lines']} lines of the audit log")
            elif line.get("method") == "GenerateImages":
                self.calls[line["request_id"]].append(line)
        for record in records:
            self._check(record)
        known = {record["request_id"] for record in records}
        if len(known) != len(records):
            self._fault("duplicated", "two records of one request")
        self._check_nameless(records)
        for request_id in (self.calls.keys() | self.generations.keys()) - known:
            lines = self.calls[request_id] + self.generations[request_id]
            self._fault("duplicated", f"'{request_id}' is in the audit log, and no client sent it: {lines[0]}")

    def _check_nameless(self, records: list[dict]):
        """Calls whose client left before the request was on its way whole: at most as many as such clients."""
        nameless = self.calls.pop("", [])
        gone = sum(record["ending"] != "wait" and record["request_id"] not in self.calls for record in records)
        if any(call["reason"] != "CLIENT_CANCELLED" for call in nameless) or len(nameless) > gone:
            self._fault("duplicated", f"{len(nameless)} calls without a request, {gone} clients left early: {nameless[0]}")

    def _fault(self, kind: str, what: str):
        self.faults[kind].append(what)

    def _check(self, record: dict):
        request_id, code = record["request_id"], record["code"]
        calls, generations = self.calls.get(request_id, []), self.generations.get(request_id, [])
        self.outcomes[f"{code}/{record['reason']}" if record["reason"] else code] += 1
        if len(calls) > 1 or len(generations) > 1:
            self._fault("duplicated", f"{request_id}: {len(calls)} calls, {len(generations)} generations")
            return
        if record["accept_s"] >= 0 and not generations:
            self._fault("lost", f"{request_id}: accepted, and no generation in the audit log")
        if code == "OK":
            self._check_success(record, calls, generations)
        elif record["reason"]:
            if not calls or (calls[0]["code"], calls[0]["reason"]) != (code, record["reason"]):
                self._fault("disagree", f"{request_id}: {code}/{record['reason']} for its client, {calls} in the audit log")
        else:
            self._check_left(record, calls)
        if calls and calls[0]["code"] == "OK" and (not generations or generations[0]["state"] != "STATE_SUCCEEDED"):
            self._fault("lost", f"{request_id}: the call ended with OK, its generation: {generations}")

    def _check_success(self, record: dict, calls: list, generations: list):
        request_id = record["request_id"]
        if not calls or calls[0]["code"] != "OK" or not generations:
            self._fault("disagree", f"{request_id}: OK for its client, {calls} in the audit log")
            return
        generation = generations[0]
        if generation["images"] != len(record["images"]):
            self._fault("lost", f"{request_id}: {len(record['images'])} of {generation['images']} images came")
        for i, image in enumerate(record["images"]):
            wrong_seed = image["seed"] != record["seed"] + i
            if wrong_seed or (
                self.check_images
                and image["sha256"] != fake_image_sha256(record, image["width"], image["height"], image["seed"])
            ):
                self._fault("crossed", f"{request_id}: image {i} is of another request")

    def _check_left(self, record: dict, calls: list):
        """The status is the client's own: only a client that left may have one."""
        request_id, ending = record["request_id"], record["ending"]
        if ENDED_BY_CLIENT.get(ending) != record["code"]:
            self._fault("lost", f"{request_id}: {record['code']} without a reason for a client that did not leave ({ending})")
        elif calls and calls[0]["code"] not in LEFT:
            self._fault("disagree", f"{request_id}: its client left, {calls} in the audit log")

    def summary(self) -> dict:
        return {
            "outcomes": dict(sorted(self.outcomes.items())),
            "reruns": self.reruns,
            "faults": {kind: len(self.faults[kind]) for kind in ("lost", "duplicated", "crossed", "disagree")},
            "first_faults": [what for kind in self.faults.values() for what in kind[:3]],
        }


def accounting_faults(server, audit: list[dict]) -> list[str]:
    """The identity: what came in has ended, and metrics and audit log count the same, code by code. Of an idle server."""
    faults = []
    started = sum(server.metric("patchflow_requests_started_total"))
    ended = sum(server.metric("patchflow_requests_total"))
    calls = [line for line in audit if line["event"] == "call" and line["method"] in COUNTED]
    if not started == ended == len(calls):
        faults.append(f"{started:.0f} calls came in, {ended:.0f} ended, {len(calls)} are in the audit log")
    by_code = collections.Counter(line["code"] for line in calls)
    for code, count in by_code.items():
        counted = sum(server.metric("patchflow_requests_total", f'code="{code}"'))
        if counted != count:
            faults.append(f"{code}: {counted:.0f} in the metrics, {count} in the audit log")
    for gauge in ("queue_depth", "requests_running", "streams_open", "generations_live"):
        if sum(server.metric(f"patchflow_{gauge}")) != 0:
            faults.append(f"patchflow_{gauge} is {sum(server.metric(f'patchflow_{gauge}')):.0f} at the end")
    return faults
