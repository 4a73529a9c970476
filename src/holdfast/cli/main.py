"""The command ``holdfast``: finds the verb, runs it, and turns every way to end into one sentence and one exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import NoReturn

import click

import holdfast
from holdfast import errors
from holdfast.cli.invocation import Invocation, error_document, json_line, sentence
from holdfast.cli.verb import LazyGroup, global_flags
from holdfast.shown import visible_lines

_SECRET = re.compile(r"(?:^|=)[A-Za-z][A-Za-z0-9+.-]*://[^/\s@]*:[^/\s@]+@")

VERBS = {
    "demo": ("holdfast.cli.demo", "The whole story on this machine, with real processes."),
    "up": ("holdfast.cli.up", "A network of its own on this machine until ^C."),
    "init": ("holdfast.cli.init", "Make your keys here and join a network."),
    "key": ("holdfast.cli.key", "Show, change or check the key file."),
    "put": ("holdfast.cli.put", "Store files and directories."),
    "get": ("holdfast.cli.get", "Fetch a file or a directory."),
    "cat": ("holdfast.cli.cat", "Write a file to stdout."),
    "ls": ("holdfast.cli.ls", "List a directory."),
    "stat": ("holdfast.cli.stat", "What is known of a name."),
    "log": ("holdfast.cli.log", "The versions of a name."),
    "mv": ("holdfast.cli.mv", "Give a name another name."),
    "restore": ("holdfast.cli.restore", "Bring back what was deleted or replaced."),
    "rm": ("holdfast.cli.rm", "Delete names."),
    "verify": ("holdfast.cli.verify", "Read everything and list what is wrong."),
    "outbox": ("holdfast.cli.outbox", "Writes that wait for the network, and conflicts."),
    "status": ("holdfast.cli.status", "How safe everything is, in words."),
    "nodes": ("holdfast.cli.nodes", "The machines that keep data."),
    "repair": ("holdfast.cli.repair", "What is being made whole."),
    "invite": ("holdfast.cli.invite", "One line that lets a newcomer join."),
    "policy": ("holdfast.cli.policy", "How many machines may die."),
    "coordinator": ("holdfast.cli.coordinator", "Make or run a coordinator."),
    "node": ("holdfast.cli.node", "Make or run a node."),
    "peers": ("holdfast.cli.peers", "A node's neighbours, and what they saved."),
    "manifest": ("holdfast.cli.manifest", "Push, list, show, sync and remove manifests."),
    "blob": ("holdfast.cli.blob", "Single blobs of a node: put, get, has, where."),
    "fetch": ("holdfast.cli.fetch", "Fetch a blob through a node: a verified, shared download."),
    "store": ("holdfast.cli.store", "Make, check, copy or scale a store by its URL."),
    "doctor": ("holdfast.cli.doctor", "Check this machine and say what to do."),
    "config": ("holdfast.cli.config", "Show the settings and where they come from."),
    "version": ("holdfast.cli.version", "Which holdfast this is."),
}

root = LazyGroup(
    "holdfast",
    verbs=VERBS,
    params=global_flags(hidden=False),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="holdfast keeps encrypted files on machines that come and go.",
    epilog=(
        "Exit codes: 0 ok, 1 failure, 2 usage, 3 partly done, 4 not found, 5 denied or wrong passphrase, 6 corrupt "
        "data, 7 too few nodes registered, 8 conflict, 75 queued in the outbox, 78 bad configuration, 130 interrupted."
    ),
    no_args_is_help=True,
)
click.version_option(holdfast.__version__, prog_name="holdfast", message="%(prog)s %(version)s")(root)


def main() -> NoReturn:
    """The entry point of the script ``holdfast``."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Runs one command line; its exit code. Never raises, never shows a traceback unless ``-vv`` asks for it."""
    invocation = Invocation(json="--json" in arguments)
    try:
        _refuse_secrets(arguments)
        code = root.main(list(arguments), prog_name="holdfast", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_stdout()
        return 1
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        hint = f" See '{error.ctx.command_path} --help'." if error.ctx is not None else ""
        return _report(errors.UsageError(error.format_message() + hint), invocation)
    except click.ClickException as error:
        return _report(errors.HoldfastError(error.format_message()), invocation)
    except (KeyboardInterrupt, click.Abort):
        return _report(
            errors.Interrupted("Interrupted: what was done is kept; run the same command to go on."), invocation
        )
    except Exception as error:
        return _report(error, invocation)
    return code if isinstance(code, int) else 0


def _report(error: Exception, invocation: Invocation) -> int:
    if invocation.verbosity >= 2:
        import traceback

        click.echo(visible_lines("".join(traceback.format_exception(error))), err=True)
    if invocation.json:
        click.echo(json_line(error_document(error)), err=True)
    else:
        click.echo(f"holdfast: {sentence(error)}", err=True)
    return errors.meaning(error).exit


def _refuse_secrets(arguments: Sequence[str]) -> None:
    """Other users of this machine can read arguments, and shells remember them."""
    for argument in arguments:
        if _SECRET.search(argument):
            raise errors.UsageError(
                "A URL with a password must not stand on the command line; leave the password out of it."
            )


def _close_stdout() -> None:
    """Whoever read stdout has gone; Python must not complain about it at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
