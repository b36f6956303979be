"""Record and replay a tiny generation without a model, before the first request counts on it."""

from __future__ import annotations

from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from vllm_enhance.engine.replay import Reader, ReplayRequest
from vllm_enhance.engine.tape import Tape
from vllm_enhance.records import decode_record, encode_record

__all__ = ["replay_is_faithful"]

IDS = [5, 7, 11, 13]


def replay_is_faithful() -> bool:
    """Whether tokens, finish and stop reason come back in every output kind."""
    tape = Tape(1)
    for index, token in enumerate(IDS):
        last = index == len(IDS) - 1
        completion = CompletionOutput(0, "", [token], None, None, finish_reason="stop" if last else None)
        completion.stop_reason = 13 if last else None
        tape.ingest(RequestOutput("self-test", None, [1, 2], None, [completion], last), RequestOutputKind.DELTA)
    record = tape.record(prompt_tokens=2, created_at=0.0, seconds=0.1, first_token_seconds=0.01, model="")
    return all(_plays(kind, decode_record(encode_record(record))) for kind in RequestOutputKind)


def _plays(kind: RequestOutputKind, record: object) -> bool:
    tape = Tape(1)
    tape.load(record)  # type: ignore[arg-type]
    params = SamplingParams(detokenize=False, output_kind=kind, max_tokens=8)
    reader = Reader(tape, ReplayRequest(request_id="self-test", params=params, prompt_token_ids=[1, 2], chunk=3))
    outputs = []
    while (output := reader.read()) is not None:
        completion = output.outputs[0]
        outputs.append((list(completion.token_ids), completion.finish_reason, completion.stop_reason, output.finished))
    end = ("stop", 13, True)
    expected = {
        RequestOutputKind.DELTA: [(IDS[:3], None, None, False), (IDS[3:], *end)],
        RequestOutputKind.CUMULATIVE: [(IDS[:3], None, None, False), (IDS, *end)],
        RequestOutputKind.FINAL_ONLY: [(IDS, *end)],
    }
    return outputs == expected[kind]
