"""`jobctl logout`: forgets what a login has left."""

from typing import Annotated

import typer

from jobworker.ctl.context import Context, run_here
from jobworker.ctl.options import Form, FormOption


def logout(
    context: typer.Context,
    everything: Annotated[
        bool, typer.Option("--all", help="Of every service, user and certificate.", show_default=False)
    ] = False,
    output: FormOption = Form.TABLE,
) -> int:
    """Forget the token of this service and certificate.

    It is removed from this machine. Where somebody may have copied it, an administrator ends it: jobpki logout NAME.
    """
    shared = Context.of(context)

    def main() -> None:
        from jobworker.ctl.output import print_data, say
        from jobworker.ctl.tokens import forget_all

        forgotten = forget_all(shared.cache) if everything else int(shared.tokens().forget())
        if output is not Form.TABLE:
            print_data({"forgotten": forgotten}, output)
        else:
            say(f"forgot {forgotten} token{'' if forgotten == 1 else 's'}")

    return run_here(main)
