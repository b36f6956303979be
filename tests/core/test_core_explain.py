from __future__ import annotations

from vllm_enhance.explain import ExplainLog, annotations_shown, merged_recent, top_entries
from vllm_enhance.types import NLP_RESULT, SIMILAR, Annotations, Neighbour

SECRET = "what is wrong with my knee"


def noted() -> Annotations:
    annotations = Annotations()
    annotations.set(SIMILAR, [Neighbour(b"\1" * 32, 0.91, SECRET, "number"), Neighbour(b"\2" * 32, 0.9)])
    annotations.set(NLP_RESULT, {"entities": [SECRET]})
    return annotations


def test_without_leave_no_text_is_shown() -> None:
    shown = annotations_shown(noted(), prompts=False)
    assert SECRET not in str(shown)
    assert shown["similar"][0] == {"key": "01" * 32, "similarity": 0.91, "refused_by": "number"}
    assert "nlp_result" not in shown


def test_with_leave_text_is_shown() -> None:
    shown = annotations_shown(noted(), prompts=True)
    assert shown["similar"][0]["question"] == SECRET
    assert "question" not in shown["similar"][1]
    assert shown["nlp_result"] == {"entities": [SECRET]}


def test_nothing_found_out_is_nothing_shown() -> None:
    assert annotations_shown(Annotations(), prompts=True) == {}


def test_parameters_are_remembered_and_never_shown() -> None:
    log = ExplainLog(2)
    log.write("a", source="engine", params={"stop": [SECRET]}, head=[SECRET])
    assert log.hidden("a") == {"params": {"stop": [SECRET]}, "head": [SECRET]}
    assert log.hidden("unknown") == {}
    assert SECRET not in str([log.read("a"), log.recent(1), list(log)])


def test_the_log_forgets_the_oldest_and_tells_the_newest_first() -> None:
    log = ExplainLog(2)
    for name in "abc":
        log.write(name, source="engine")
    log.write("b", seconds=1.0)
    assert [entry["request_id"] for entry in log.recent(5)] == ["c", "b"]
    assert log.read("a") is None
    assert log.read("b") == {"request_id": "b", "source": "engine", "seconds": 1.0}


def test_what_is_read_is_a_copy() -> None:
    log = ExplainLog(2)
    log.write("a", source="engine")
    log.recent(1)[0]["source"] = "changed"
    assert (log.read("a") or {})["source"] == "engine"


def test_top_entries_count_requests_and_reuse_by_key() -> None:
    log = ExplainLog(10)
    for number, (key, source) in enumerate(
        [("k", "engine"), ("k", "memory"), ("k", "joined"), ("m", "engine"), (None, "engine")]
    ):
        log.write(str(number), key=key, source=source, output_tokens=10, at=float(number), model="x")
    first, second = top_entries(log.recent(10), 5)
    assert (first["key"], first["requests"], first["reused"], first["saved_tokens"]) == ("k", 3, 2, 20)
    assert first["request_id"] == "2"  # the latest
    assert (second["key"], second["reused"]) == ("m", 0)
    assert len(top_entries(log.recent(10), 1)) == 1


def test_what_several_processes_remember_is_one_list() -> None:
    logs = [ExplainLog(10), ExplainLog(10)]
    for number, key in enumerate("kkmkk"):
        logs[number % 2].write(str(number), key=key, source="memory", output_tokens=5, at=float(number))
    reports = [
        {"requests": log.recent(10), "top": top_entries(log.recent(10), 5), "remembered": len(log)} for log in logs
    ]
    merged = merged_recent(reports, 3, 5)
    assert [entry["request_id"] for entry in merged["requests"]] == ["4", "3", "2"]
    assert merged["remembered"] == 5
    both, alone = merged["top"]
    assert (both["key"], both["requests"], both["saved_tokens"], both["request_id"]) == ("k", 4, 20, "4")
    assert (alone["key"], alone["requests"]) == ("m", 1)
    assert len(merged_recent(reports, 3, 1)["top"]) == 1
