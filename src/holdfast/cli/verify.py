"""``holdfast verify``: read what is there, or a part of it, and list everything that is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from holdfast.cli.invocation import Invocation, current
from holdfast.cli.verb import Verb
from holdfast.cli.words import count_words, size_words, visible
from holdfast.errors import Corrupt, PartlyDone

if TYPE_CHECKING:
    from holdfast.client.vault import Defect, VerifySummary


class Share(click.ParamType[float]):
    """``5%`` or ``0.05`` -> 0.05; above nothing, at most everything."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            share = float(value[:-1]) / 100 if str(value).endswith("%") else float(value)
        except ValueError:
            share = 0.0
        if not 0 < share <= 1:
            self.fail(f"{value!r} is no share; write 5% or 0.05", param, ctx)
        return share


@click.command("verify", cls=Verb)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@click.option("--sample", type=Share(), default="100%", metavar="SHARE", help="Read only this share, chosen by chance.")
@click.option("--all-copies", is_flag=True, help="Every node re-reads every copy too; without traffic.")
@current
def command(invocation: Invocation, names: tuple[str, ...], sample: float, all_copies: bool) -> None:
    """Read and check NAMES with all below them (default: everything), and list each defect.

    Wrong copies are set aside by their nodes and made anew from right ones. Exit code 0: all is right; 3: there are
    defects, but nothing is known to be lost; 6: something has no right copy left.
    """
    invocation.run(_run(invocation, names, sample, all_copies))


async def _run(invocation: Invocation, names: tuple[str, ...], sample: float, all_copies: bool) -> None:
    from holdfast.cli.progress import progress

    def found(defect: Defect) -> None:
        if invocation.json:
            invocation.document({"event": "defect", **_document(defect)})
        else:
            invocation.data(_line(defect))

    tops = [name.strip("/") for name in names]
    async with await invocation.vault() as vault:
        with progress(invocation, "verify") as show:
            summary = await vault.verify(
                [] if "" in tops else tops, sample=sample, all_copies=all_copies, found=found, progress=show
            )
    said = _words(summary, sample)
    if invocation.json:
        fields = ("names", "bytes", "copies", "wrong", "missing", "unreached", "lost")
        invocation.document({"event": "summary", **{field: getattr(summary, field) for field in fields}})
    else:
        invocation.note(said)
    if summary.lost:
        raise Corrupt(f"{count_words(summary.lost, 'name')} cannot be read: no right copy is left of what they need.")
    defects = summary.wrong + summary.missing + summary.unreached
    if defects:
        raise PartlyDone(f"{count_words(defects, 'defect')}; what is wrong or missing is made anew (holdfast status).")


def _document(defect: Defect) -> dict[str, Any]:
    fields: dict[str, Any] = {"kind": defect.kind, "name": defect.name, "detail": defect.detail}
    if defect.pack is not None:
        fields["pack"] = str(defect.pack)
    if defect.node is not None:
        fields["node"] = defect.node
    return fields


def _line(defect: Defect) -> str:
    pack = "" if defect.pack is None or str(defect.pack) in defect.detail else f": pack {defect.pack}"
    node = "" if defect.node is None else f" on {visible(defect.node)}"
    return f"{defect.kind}: {visible(defect.name)}{pack}{node}: {' '.join(visible(defect.detail).split())}"


def _words(summary: VerifySummary, sample: float) -> str:
    read = f"{count_words(summary.names, 'name')} looked at, {size_words(summary.bytes)} read"
    part = "" if sample == 1 else f" (a sample of {sample * 100:g}%)"
    copies = f", {count_words(summary.copies, 'copy', 'copies')} re-read by their nodes" if summary.copies else ""
    return f"{read}{part}{copies}"
