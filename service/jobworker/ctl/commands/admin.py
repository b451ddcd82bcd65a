"""`jobctl admin`: how the service is, and stopping, starting and configuring it."""

import json
from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.durations import parse_seconds
from jobworker.ctl.options import (
    ColumnsOption,
    Form,
    FormOption,
    ListForm,
    ListFormOption,
    NoHeadersOption,
    QuietOption,
    UtcOption,
)

if TYPE_CHECKING:
    from jobworker.client import Client, Config, ServiceStatus

_WATCH_SECONDS = 1.0

app = typer.Typer(help="Administer the service.", no_args_is_help=True, rich_markup_mode=None)
config_app = typer.Typer(
    help="Its configuration, while it runs; changes are kept over restarts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(config_app, name="config")

KeysArgument = Annotated[list[str], typer.Argument(metavar="KEY...", help="Such as jobs.running.", show_default=False)]
GenerationOption = Annotated[
    int,
    typer.Option("--generation", "-g", metavar="N", min=0, help="Only if this generation is in force; 0: whichever."),
]


@app.command()
def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again each second, in place, until Ctrl-C.")] = False,
    output: FormOption = Form.TABLE,
    utc: UtcOption = False,  # noqa: ARG001 - its callback does it
) -> int:
    """Show how the service is: state, load, executor, disk, certificates, configuration."""
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.service import print_status, watch_status

        async with shared.client() as client:
            if watch:
                await watch_status(client, every_seconds=_WATCH_SECONDS, form=output)
            else:
                print_status(await client.admin.status(), output)

    return shared.run(main())


@app.command()
def start(context: typer.Context, output: FormOption = Form.TABLE) -> int:
    """Take work again after `stop`. The same when repeated."""
    return _change(context, output, lambda client: client.admin.start())


@app.command()
def stop(
    context: typer.Context,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Cancel what still runs after 30s, 10m, ... Default: it runs to its end.",
            show_default=False,
        ),
    ] = None,
    kill: Annotated[bool, typer.Option("--kill", help="Cancel running jobs at once.")] = False,
    cancel_queued: Annotated[
        bool, typer.Option("--cancel-queued", help="Skip queued jobs; otherwise they start after `start`.")
    ] = False,
    output: FormOption = Form.TABLE,
) -> int:
    """Take no new batches and start no jobs; the service goes on answering.

    Returns at once. It holds over restarts of the service, until `start`; repeated, it may shorten the deadline, or
    cancel what was left.
    """
    try:
        deadline_seconds = None if deadline is None else parse_seconds(deadline)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--deadline") from error
    if kill and deadline is not None:
        raise typer.BadParameter("cannot be given together with --deadline", param_hint="--kill")
    return _change(
        context,
        output,
        lambda client: client.admin.stop(deadline_seconds=deadline_seconds, kill=kill, cancel_queued=cancel_queued),
    )


@app.command()
def retention(  # noqa: PLR0917 - typer passes options by name
    context: typer.Context,
    dry_run: Annotated[  # noqa: ARG001  (there is nothing else that it could do)
        bool, typer.Option("--dry-run", help="Needed: batches are removed by the service alone.", show_default=False)
    ],
    values: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE...]", help="As if it were set: retention.stored_bytes=10000000000.", show_default=False
        ),
    ] = None,
    most: Annotated[int, typer.Option("--max", metavar="N", min=1, max=10_000, help="Batches to list.")] = 1000,
    output: ListFormOption = ListForm.TABLE,
    columns: ColumnsOption = None,
    quiet: QuietOption = False,
    no_headers: NoHeadersOption = False,
) -> int:
    """Show which finished batches would be removed now, and why."""
    shared = Context.of(context)
    wanted = _pairs(values or ())

    async def main() -> None:
        from jobworker.ctl.listing import Shown
        from jobworker.ctl.service import print_plan

        shown = Shown(output, columns, quiet, no_headers)
        async with shared.client() as client:
            plan = await client.admin.retention_plan(wanted, max_removals=most)
        print_plan(plan, shown)

    return shared.run(main())


@config_app.command()
def show(
    context: typer.Context,
    output: ListFormOption = ListForm.TABLE,
    columns: ColumnsOption = None,
    quiet: QuietOption = False,
    no_headers: NoHeadersOption = False,
) -> int:
    """Show each key's value, where it comes from, and whether a change takes a restart.

    json and yaml are the Config; jsonl is a key a line.
    """
    return _configure(
        context, lambda client: client.admin.config(), columns=columns, form=output, quiet=quiet, no_headers=no_headers
    )


@config_app.command("set")
def set_(
    context: typer.Context,
    values: Annotated[
        list[str],
        typer.Argument(
            metavar="KEY=VALUE...", help="Such as jobs.running=8; none is no limit, where one may be left out."
        ),
    ],
    generation: GenerationOption = 0,
    output: ListFormOption = ListForm.TABLE,
) -> int:
    """Change keys, all or none, above what file and environment say."""
    found = _pairs(values)
    return _configure(
        context, lambda client: client.admin.update_config(found, generation=generation), keys=found, form=output
    )


@config_app.command()
def unset(
    context: typer.Context,
    keys: KeysArgument,
    generation: GenerationOption = 0,
    output: ListFormOption = ListForm.TABLE,
) -> int:
    """Give keys back to what file, environment and defaults say."""
    return _configure(
        context, lambda client: client.admin.update_config({}, unset=keys, generation=generation), form=output
    )


def _change(
    context: typer.Context, output: Form, call: "Callable[[Client], Coroutine[None, None, ServiceStatus]]"
) -> int:
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.output import as_json, print_data, say
        from jobworker.ctl.service import in_words

        async with shared.client() as client:
            status = await call(client)
        if output is not Form.TABLE:
            print_data(as_json(status), output)
        else:
            say(in_words(status))

    return shared.run(main())


def _configure(
    context: typer.Context,
    call: "Callable[[Client], Coroutine[None, None, Config]]",
    *,
    keys: Collection[str] = (),
    form: ListForm,
    columns: str | None = None,
    quiet: bool = False,
    no_headers: bool = False,
) -> int:
    """`keys` are those to show; none is all."""
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.listing import Shown
        from jobworker.ctl.service import print_config

        shown = Shown(form, columns, quiet, no_headers)
        async with shared.client() as client:
            config = await call(client)
        print_config(config, shown, keys=keys)

    return shared.run(main())


def _pairs(texts: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise typer.BadParameter(f"{text!r} is not KEY=VALUE", param_hint="KEY=VALUE")
        found[key] = _value(value)
    return found


def _value(text: str) -> Any:
    """A JSON value where it is one, else the text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
