"""`headrace top`: the operator's screen. A client of the metrics process and of control doors, nothing else.

| module       | what                                                                   |
|--------------|------------------------------------------------------------------------|
| `app`        | `run`, and the application that ties regions to the feed                 |
| `feed`       | the one source of data: live from the bus, or `replay` from a file       |
| `sync`       | snapshot first, then updates in sequence; pure                           |
| `world`      | everything known now, as the screens need it; pure                       |
| `actions`    | what an operator can do, whom it goes to and whom it hits; pure          |
| `courier`    | carries an order to a control door and brings the answer                 |
| `text`, `draw`, `glyphs`, `filters` | formatting, pictures out of characters, row filters; pure |
| `plain`      | the same for pipes and screen readers                                    |
| `chrome/`, `pulse/`, `fleet/`, `requests/`, `dialogs/` | one folder per region of the screen |

Two rules hold everywhere. Text that came from outside passes `text.sanitize` and is never parsed as markup. A lower
case key looks; only an upper case key acts, and only after a dialog whose default is Cancel.
"""
