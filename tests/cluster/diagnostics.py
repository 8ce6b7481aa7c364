"""What to know of the cluster when a test has failed."""

from __future__ import annotations

from tests.cluster.commands import Refused, run
from tests.cluster.environment import PODS, SYSTEM
from tests.cluster.installation import AGENTS

_QUESTIONS = (
    ("get", "pods", "--namespace", SYSTEM, "-o", "wide"),
    ("get", "pods", "--namespace", PODS, "-o", "wide"),
    ("describe", "pods", "--namespace", PODS, "--selector", "mdev-test=pod"),
    ("get", "events", "--namespace", PODS, "--sort-by", ".lastTimestamp"),
    ("describe", "pods", "--namespace", SYSTEM, "--selector", AGENTS),
    ("logs", "--namespace", SYSTEM, "--selector", AGENTS, "--all-containers", "--previous", "--tail", "40"),
    ("logs", "--namespace", SYSTEM, "--selector", AGENTS, "--all-containers", "--tail", "150"),
)


def diagnostics() -> str:
    """Pods, their events, and what the agent logged."""
    answers = []
    for question in _QUESTIONS:
        try:
            answer = run(("kubectl", *question), within=30.0)
        except Refused as error:
            answer = str(error)
        answers.append(f"$ kubectl {' '.join(question)}\n{answer}")
    return "\n".join(answers)
