"""Forty one-line faults, put one at a time into a copy of the project: does a test notice each?

Each :class:`Mutant` is a line (or a part of one) that stands exactly once in a file, what takes its place, and the
tests concerned. The tests are run once on the copy as it is and must pass; then with every fault, and must fail::

    python benchmarks/mutants.py              # all; prints {"of": 40, "survived": []} last, keeps it in mutants.json
    python benchmarks/mutants.py holm mask    # those whose name contains a word
    python benchmarks/mutants.py --page       # writes docs/mutants.md from the list and what is kept, runs nothing

A line that is gone, tests that are not found, or tests that fail without any fault end the run with an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "mutants.md"
RESULT = ROOT / "benchmarks" / "mutants.json"
SHARED = {"WEFT_GOLDEN": "golden", "WEFT_DATA": "data", "WEFT_MODELS": "models"}
WORKERS, SECONDS = 2, 600
PASSED, FAILED = 0, 1


class Mutant(NamedTuple):
    """A fault.

    Attributes:
        name: what it does, in a few words.
        file: below ``src/weft``.
        old: part of one line, exactly once in the file.
        new: what takes its place.
        tests: arguments of pytest.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str


def contract(operator: str, check: str) -> str:
    """The argument of pytest for one check of one operator."""
    return f"tests/contract/test_fusion.py::test_contract[{operator}-{check}]"


MUTANTS = [
    Mutant(
        "padding pooled as data",
        "tokens.py",
        "values = torch.where(mask, tokens.values, 0.0)",
        "values = tokens.values",
        "tests/test_tokens.py",
    ),
    Mutant(
        "a filler in training, none in inference",
        "fusion/base.py",
        "gone = ~mask.any(dim=1, keepdim=True)",
        "gone = ~mask.any(dim=1, keepdim=True) & self.training",
        "tests/contract/test_fusion.py tests/fusion/test_tucker.py -k tucker",
    ),
    Mutant(
        "absent modalities compete in a softmax gate",
        "fusion/gated.py",
        "scores = scores.masked_fill(~there, torch.finfo(scores.dtype).min)",
        "scores = scores + 0.0",
        "tests/fusion/test_gated.py",
    ),
    Mutant(
        "attention to padding",
        "fusion/attention.py",
        "attn_mask=keys",
        "attn_mask=None",
        contract("bottleneck", "values_under_the_mask_never_matter") + " tests/fusion/test_bottleneck.py",
    ),
    Mutant(
        "attention over the batch axis",
        "fusion/attention.py",
        "query = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)",
        "query = self.query(x).flip(0).unflatten(-1, (self.heads, -1)).transpose(1, 2)",
        contract("bottleneck", "alone_equals_in_a_batch"),
    ),
    Mutant(
        "low-rank factors that are not registered",
        "fusion/low_rank.py",
        "self.factors = nn.ParameterList(",
        "self.factors = list(",
        "tests/fusion/test_low_rank.py",
    ),
    Mutant(
        "gradients of other processes dropped",
        "ops/contrastive.py",
        "dist.reduce_scatter(own, blocks)",
        "own = blocks[dist.get_rank()]",
        "tests/contract/test_objective.py -k many_processes",
    ),
    Mutant(
        "the sign of the sigmoid loss",
        "ops/contrastive.py",
        "total += F.softplus(logits).sum()",
        "total += F.softplus(-logits).sum()",
        "tests/ops/test_contrastive.py",
    ),
    Mutant(
        "absent modalities take part in a vote",
        "tasks/decision.py",
        "votes = F.one_hot(log_p.argmax(dim=-1), log_p.shape[-1]) * there",
        "votes = F.one_hot(log_p.argmax(dim=-1), log_p.shape[-1])",
        "tests/tasks/test_decision.py -k vote",
    ),
    Mutant(
        "standardised with the dev rows",
        "training/fused_task.py",
        "self.model.standardise.fit(self._train.chunks())",
        "self.model.standardise.fit(self._dev.chunks())",
        "tests/training/test_loop.py -m 'not slow'",
    ),
    Mutant(
        "epochs judged on other rows than dev",
        "training/fused_task.py",
        "self._dev_target = target[dev]",
        "self._dev_target = target[train[: len(dev)]]",
        "tests/training/test_loop.py tests/models/test_fused.py -m 'not slow'",
    ),
    Mutant(
        "the worst epoch kept",
        "training/loop.py",
        "self._rank(entry) > self._rank(",
        "self._rank(entry) < self._rank(",
        "tests/training/test_loop.py -m 'not slow'",
    ),
    Mutant(
        "every epoch in one order",
        "training/loop.py",
        "self.task.order(np.random.default_rng([config.seed, position.epoch]))",
        "self.task.order(np.random.default_rng([config.seed]))",
        "tests/training/test_loop.py -m 'not slow'",
    ),
    Mutant(
        "the last modality of a row dropped",
        "training/batches.py",
        "return _kept(inputs, (draw >= probability).scatter(1, spared, True))",
        "return _kept(inputs, draw >= probability)",
        "tests/training/test_parts.py",
    ),
    Mutant(
        "a run known without its features",
        "training/training_task.py",
        'return {"features": features.fingerprint, "rows"',
        'return {"rows"',
        "tests/training/test_loop.py -k refused",
    ),
    Mutant(
        "a checkpoint of another run taken",
        "training/checkpoint.py",
        "other = [key for key in run if run[key] != then.get(key)]",
        "other = []",
        "tests/training/test_loop.py -k refused",
    ),
    Mutant(
        "one token too many in a mask",
        "store/column.py",
        "np.arange(longest) < count[:, None]",
        "np.arange(longest) <= count[:, None]",
        "tests/store/test_features.py",
    ),
    Mutant(
        "values told apart by their first rows",
        "store/column.py",
        "for part in self._parts(self.pointer[self.presence]):",
        "for part in self._parts(self.pointer[self.presence][:64]):",
        "tests/store/test_fingerprint.py",
    ),
    Mutant(
        "encoders learn from dev rows too",
        "store/encode.py",
        'np.flatnonzero(dataset.split == "train")',
        'np.flatnonzero(dataset.split != "test")',
        "tests/store/test_encode.py -k learn",
    ),
    Mutant(
        "damage found and not made anew",
        "store/encode.py",
        'entry["shards"][index]["sha256"] = None',
        "pass",
        "tests/store/test_encode.py -k damaged",
    ),
    Mutant(
        "two palettes are one image",
        "store/files.py",
        'palette = value.getpalette("RGBA") if value.mode in ("P", "PA") else None',
        "palette = None",
        "tests/store/test_fingerprint.py",
    ),
    Mutant(
        "a registry full before its plug-ins",
        "registry.py",
        "self._discovering = True",
        "self._discovering = self._discovered = True",
        "tests/test_registry.py",
    ),
    Mutant(
        "files written in place",
        "files.py",
        "os.replace(temporary, path)",
        "path.write_bytes(content)",
        "tests/test_files.py tests/store/test_encode.py -k 'write_that_fails or rename'",
    ),
    Mutant(
        "NaN in JSON",
        "files.py",
        "return value if math.isfinite(value) else None",
        "return value",
        "tests/test_files.py",
    ),
    Mutant(
        "two processes encode without a lock",
        "store/encode.py",
        "with lock(folder / LOCK):",
        'with (folder / LOCK).open("w"):',
        "tests/store/test_encode.py -k two_processes",
    ),
    Mutant(
        "old names of weights are lost",
        "models/pretrained.py",
        "{_renamed(name, renames or {}): tensor",
        "{name: tensor",
        "tests/models/test_pretrained.py",
    ),
    Mutant(
        "a model judged on rows it was trained on",
        "models/seen.py",
        '"test": ["test", ""]',
        '"test": ["train", "test", ""]',
        "tests/models/test_seen.py",
    ),
    Mutant(
        "ties optimistic in the retrieval task",
        "tasks/retrieval.py",
        'ties: Ties = "mean"',
        'ties: Ties = "optimistic"',
        "tests/tasks/test_retrieval.py",
    ),
    Mutant(
        "an index answers for another model",
        "retrieval/search.py",
        'if facts["fingerprint"] != fingerprint:',
        'if not facts["fingerprint"]:',
        "tests/retrieval/test_search.py -k index",
    ),
    Mutant(
        "groups cut in two by a split",
        "data/splits.py",
        "unit = np.unique(data.group[rows], return_inverse=True)[1].reshape(-1)",
        "unit = np.arange(len(rows))",
        "tests/data/test_splits.py",
    ),
    Mutant(
        "a dev part cut from the test rows",
        "data/splits.py",
        "_deal(data, train, np.array([1 - share, share])",
        "_deal(data, test, np.array([1 - share, share])",
        "tests/data/test_splits.py",
    ),
    Mutant(
        "p of random flips without the added one",
        "compare/statistics.py",
        "return (1 + hits) / (1 + resamples)",
        "return hits / resamples",
        "tests/compare/test_statistics.py -k 'clear or uniform'",
    ),
    Mutant(
        "Holm off in the table",
        "compare/evidence.py",
        "adjusted = dict(zip(gains, holm(np.array([g.p for g in gains.values()])).tolist(), strict=True))",
        "adjusted = {name: g.p for name, g in gains.items()}",
        "tests/compare/test_evidence.py",
    ),
    Mutant(
        "trials ranked on the test rows",
        "compare/jobs.py",
        "task, rows = setup.tasks[job.fold], setup.splits[job.fold].dev",
        "task, rows = setup.tasks[job.fold], setup.splits[job.fold].test; dev = outputs_for(setup, job, model, rows)",
        "tests/compare/test_budget.py -k never_look",
    ),
    Mutant(
        "the best fusion and the best single chosen on test",
        "compare/evidence.py",
        "key=lambda name: self.sign * self.dev(name), default=None",
        "key=lambda name: self.sign * self.test(name).mean(), default=None",
        "tests/compare/test_evidence.py",
    ),
    Mutant(
        "the paired test without groups",
        "compare/evidence.py",
        "return sign_flip_test(difference, self.group, resamples=resamples)",
        "return sign_flip_test(difference, None, resamples=resamples)",
        "tests/compare/test_evidence.py",
    ),
    Mutant(
        "one draw of seeds for both methods",
        "compare/evidence.py",
        "draws = [mean_of_seeds(self._bootstrap[name], seed=k)",
        "draws = [mean_of_seeds(self._bootstrap[name], seed=1)",
        "tests/compare/test_evidence.py",
    ),
    Mutant(
        "the worst seed on dev kept",
        "compare/evidence.py",
        "return pairs[int(np.argmax(rank))][0]",
        "return pairs[int(np.argmin(rank))][0]",
        "tests/compare/test_evidence.py",
    ),
    Mutant(
        "no indicator of absence in the linear baseline",
        "models/pooled.py",
        "flagged = [] if nan else [",
        "flagged = [] if True else [",
        "tests/models/test_pooled.py",
    ),
    Mutant(
        "names of methods as markup",
        "report/html.py",
        '"".join(f"<td>{escape(cell)}</td>" for cell in line)',
        '"".join(f"<td>{cell}</td>" for cell in line)',
        "tests/report/test_report.py",
    ),
]


def main() -> None:
    if "--help" in sys.argv:
        print(__doc__)
        return
    words = [argument for argument in sys.argv[1:] if not argument.startswith("--")]
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    broken = [complaint for mutant in chosen if (complaint := inapplicable(mutant))]
    if broken or len({m.name for m in MUTANTS}) < len(MUTANTS):
        sys.exit("\n".join(broken) or "two mutants have one name")
    if "--page" in sys.argv:
        PAGE.write_text(page())
        return
    tree = {"commit": commit(), "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    survived = [mutant.name for mutant, noticed in zip(chosen, run(chosen), strict=True) if not noticed]
    found = {"of": len(chosen), "survived": survived}
    if chosen == MUTANTS:
        RESULT.write_text(json.dumps(found | tree) + "\n")
    print(json.dumps(found))
    sys.exit(bool(survived))


def commit() -> str:
    """The commit of the tree, and whether files were changed since."""
    command = ["git", "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.strip()


def inapplicable(mutant: Mutant) -> str:
    """Why a mutant cannot be put in; empty where it can."""
    path = ROOT / "src" / "weft" / mutant.file
    found = path.read_text().count(mutant.old) if path.is_file() else 0
    return "" if found == 1 else f"{mutant.name}: {mutant.old!r} stands {found} times in {mutant.file}, not once"


def run(mutants: list[Mutant]) -> list[bool]:
    """Whether each mutant's tests fail with it; they all pass without."""
    free: SimpleQueue[Path] = SimpleQueue()
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(WORKERS) as pool:
        for number in range(WORKERS):
            free.put(copy_of_tree(Path(folder) / f"{number}" / "weft"))

        def sound(tests: str) -> None:
            tree = free.get()
            code, output = pytest(tree, tests)
            free.put(tree)
            if code != PASSED:
                raise RuntimeError(f"without any fault, pytest {tests} ends with {code}:\n{output}")

        def noticed(mutant: Mutant) -> bool:
            tree = free.get()
            path = tree / "src" / "weft" / mutant.file
            source = path.read_text()
            path.write_text(source.replace(mutant.old, mutant.new))
            code, output = pytest(tree, mutant.tests)
            path.write_text(source)
            free.put(tree)
            if code not in (PASSED, FAILED):
                raise RuntimeError(f"{mutant.name}: pytest {mutant.tests} ends with {code}:\n{output}")
            print(f"{'noticed ' if code else 'SURVIVED'}  {mutant.file}: {mutant.name}", flush=True)
            return code == FAILED

        list(pool.map(sound, dict.fromkeys(mutant.tests for mutant in mutants)))
        return list(pool.map(noticed, mutants))


def copy_of_tree(target: Path) -> Path:
    """The files git knows or would take, as they stand."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, check=True, text=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)
    return target


def pytest(tree: Path, tests: str) -> tuple[int, str]:
    """Exit code and end of the output of ``pytest`` in a tree; a run without end counts as failed."""
    shared = {
        name: str(Path(os.environ.get(name, ROOT.parent / "shared" / at)).resolve()) for name, at in SHARED.items()
    }
    own = {"PYTHONPATH": str(tree / "src"), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = f"{sys.executable} -m pytest -x -n0 -p no:cacheprovider {tests}"
    command = " ".join(f"'{part}'" if "[" in part else part for part in command.split(" "))
    try:
        done = subprocess.run(
            command, shell=True, cwd=tree, env={**os.environ, **shared, **own}, timeout=SECONDS, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return FAILED, "no end"
    return done.returncode, done.stdout[-3000:]


def page() -> str:
    """``docs/mutants.md``."""
    found = json.loads(RESULT.read_text())
    survived = "; ".join(found["survived"]) or "none"
    lines = [
        "# One-line faults",
        "",
        f"`python benchmarks/mutants.py` puts each of these {len(MUTANTS)} faults into a copy of the project and runs",
        "the tests concerned. A fault that no test notices fails the run; so does a line that is gone, or tests that",
        "fail without any fault. This page is generated from the script (`--page`).",
        "",
        f"All put in at commit `{found['commit']}`, {found['date']}: of {found['of']} faults,",
        f"{found['of'] - len(found['survived'])} were noticed. Survived: {survived}.",
        "",
    ]
    for mutant in MUTANTS:
        lines += [f"## {mutant.name[0].upper()}{mutant.name[1:]}", "", f"`{mutant.file}`, noticed by `{mutant.tests}`"]
        lines += ["", "```diff", f"- {mutant.old}", f"+ {mutant.new}", "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
