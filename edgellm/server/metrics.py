"""Counters in Prometheus' text form, named as llama.cpp's with `edgellm_` in front."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from edgellm.engine.request import Finish
from edgellm.server.models import ModelManager


@dataclass
class Metrics:
    """Counts since the start; changed on the event loop only."""

    requests: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    prompt_s: float = 0.0
    generate_s: float = 0.0

    def count(self, finish: Finish) -> None:
        """Add a request that has ended."""
        stats = finish.stats
        self.requests[finish.reason] += 1
        self.prompt_tokens += stats.n_prompt - stats.n_cached
        self.cached_tokens += stats.n_cached
        self.generated_tokens += stats.n_generated
        self.drafted_tokens += stats.n_drafted
        self.accepted_tokens += stats.n_accepted
        self.prompt_s += stats.prompt_s
        self.generate_s += stats.generate_s

    def render(self, models: ModelManager) -> str:
        """The text that a scrape gets."""
        running = [loaded.model.scheduler for loaded in models.loaded]
        lines: list[str] = []

        def add(name: str, kind: str, text: str, value: float, labels: str = "") -> None:
            if not lines or lines[-1].partition(" ")[0].partition("{")[0] != f"edgellm_{name}":
                lines.extend((f"# HELP edgellm_{name} {text}", f"# TYPE edgellm_{name} {kind}"))
            lines.append(f"edgellm_{name}{labels} {value:.15g}")

        add("prompt_tokens_total", "counter", "Prompt tokens computed.", self.prompt_tokens)
        add("prompt_cached_tokens_total", "counter", "Prompt tokens found in the cache.", self.cached_tokens)
        add("prompt_seconds_total", "counter", "Time spent reading prompts.", self.prompt_s)
        add("tokens_predicted_total", "counter", "Tokens generated.", self.generated_tokens)
        add("tokens_drafted_total", "counter", "Draft tokens verified.", self.drafted_tokens)
        add("tokens_drafted_accepted_total", "counter", "Draft tokens accepted.", self.accepted_tokens)
        add("tokens_predicted_seconds_total", "counter", "Time spent generating.", self.generate_s)
        for reason in ("stop", "length", "context", "cancelled", "error"):
            labels = f'{{reason="{reason}"}}'
            add("requests_total", "counter", "Requests by how they ended.", self.requests[reason], labels)
        add("requests_processing", "gauge", "Requests under way.", sum(s.n_active for s in running))
        add("requests_deferred", "gauge", "Requests waiting.", sum(s.n_waiting for s in running))
        add(
            "sequences_parked",
            "gauge",
            "Sequences kept for reuse.",
            sum(s.n_cached_sequences for s in running),
        )
        add("model_loads_total", "counter", "Models loaded.", models.n_loads)
        add("model_unloads_total", "counter", "Models unloaded.", models.n_unloads)
        add("models_loaded", "gauge", "Models in memory.", len(running))
        for loaded in models.loaded:
            labels = f'{{model="{_label(loaded.name)}"}}'
            add("model_memory_bytes", "gauge", "What a model takes at most.", loaded.n_bytes, labels)
        for loaded in models.loaded:
            labels, longest = f'{{model="{_label(loaded.name)}"}}', loaded.runner.longest_step_s
            add("step_seconds_max", "gauge", "The longest step of the engine.", longest, labels)
        return "\n".join(lines) + "\n"


def _label(value: str) -> str:
    """A label's value as the text form escapes it."""
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
