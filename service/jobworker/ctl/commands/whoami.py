"""`jobctl whoami`: who we are to the service, and what we may do."""

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.options import Form, FormOption


def whoami(context: typer.Context, output: FormOption = Form.TABLE) -> int:
    """Show your user, role and rights as they are now, and when certificate and token end."""
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.output import add_row, as_json, moment, print_json, show, table

        async with shared.client() as client:
            who = await client.whoami()
        if output is Form.JSON:
            print_json(as_json(who))
            return
        rows = table("", "", header=False)
        add_row(rows, "user:", who.user)
        add_row(rows, "role:", who.role)
        add_row(rows, "rights:", ", ".join(who.rights) or "none")
        add_row(rows, "certificate:", f"serial {who.certificate_serial}, until {moment(who.certificate_expires_at)}")
        add_row(rows, "token:", f"until {moment(who.token_expires_at)}")
        show(rows)

    return shared.run(main())
