"""`jobctl whoami`: who we are to the service, and what we may do."""

import typer

from jobworker.ctl.context import Context
from jobworker.ctl.options import Form, FormOption, UtcOption


def whoami(context: typer.Context, output: FormOption = Form.TABLE, utc: UtcOption = False) -> int:  # noqa: ARG001
    """Show your user, role and rights as they are now, and when certificate and token end."""
    shared = Context.of(context)

    async def main() -> None:
        from jobworker.ctl.output import as_json, moment, print_data, print_facts

        async with shared.client() as client:
            who = await client.whoami()
        if output is not Form.TABLE:
            print_data(as_json(who), output)
            return
        print_facts(
            [
                ("user", who.user),
                ("role", who.role),
                ("rights", ", ".join(who.rights) or "none"),
                ("certificate", f"serial {who.certificate_serial}, until {moment(who.certificate_expires_at)}"),
                ("token", f"until {moment(who.token_expires_at)}"),
            ]
        )

    return shared.run(main())
