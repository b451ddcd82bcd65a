"""`jobctl logout`: ends what a login has begun."""

from typing import Annotated

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.exits import Exit
from jobworker.ctl.options import Form, FormOption


def logout(
    context: typer.Context,
    everything: Annotated[
        bool,
        typer.Option(
            "--all", help="Forget the tokens of every service, user and certificate; none is ended.", show_default=False
        ),
    ] = False,
    output: FormOption = Form.TABLE,
) -> int:
    """End the token of this service and certificate, and forget it.

    The service refuses it from then on, whoever has a copy. Where the service cannot be reached it is forgotten on this
    machine alone, and the exit code is 6; an administrator ends it then: jobpki logout NAME.
    """
    shared = Context.of(context)

    async def main() -> int:
        from jobworker.ctl.output import note, print_data, say
        from jobworker.ctl.tokens import forget_all

        trouble = ""
        if everything:
            forgotten, ended = forget_all(shared.cache), 0
        else:
            tokens = shared.tokens()
            text = tokens.text()
            if text is not None:
                trouble = await _end(shared, text)
            forgotten = int(tokens.forget())
            ended = int(text is not None and not trouble)
        if output is not Form.TABLE:
            print_data({"forgotten": forgotten, "ended": ended}, output)
        else:
            say(f"forgot {forgotten} token{'' if forgotten == 1 else 's'}")
        if trouble:
            note(f"the token is forgotten here, but the service did not end it: {trouble}")
        return Exit.UNAVAILABLE if trouble else Exit.OK

    return shared.run(main())


async def _end(shared: Context, text: str) -> str:
    """Why it could not be ended; empty: it is, or was before."""
    from jobworker.client import JobworkerError, UnauthenticatedError

    try:
        async with shared.with_token(text) as client:
            await client.logout()
    except UnauthenticatedError as error:
        return "" if error.reason.startswith("TOKEN_") else error.message
    except JobworkerError as error:
        return error.message
    return ""
