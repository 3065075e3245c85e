"""`headrace top`: the operator's screen. A client of the metrics process and of control doors, nothing else.

| module       | what                                                                   |
|--------------|------------------------------------------------------------------------|
| `app`        | `run`, and the application that ties regions to the feed                 |
| `views`      | the screens with their keys; `view` is what each is to the application     |
| `feed`       | the one source of data: live from the bus, or `replay` from a file       |
| `sync`       | snapshot first, then updates in sequence; pure                           |
| `world`      | everything known now, as the screens need it; pure                       |
| `actions`, `blast` | what an operator can do, whom it goes to; whom it hits; pure       |
| `operator`   | from a wish to an order: dialogs, commands, palette, saved views         |
| `commands`, `keymap`, `keepsakes` | the command line; other keys; history and views     |
| `doors`, `archive`, `acted` | what control doors, files and journal say beside the feed |
| `courier`    | carries an order to a control door and brings the answer                 |
| `text`, `draw`, `glyphs`, `filters` | formatting, pictures out of characters, row filters; pure |
| `plain`      | the same for pipes and screen readers                                    |
| `table`, `look`, `panel` | what screens are put together from: tables, how they are looked at, boxes |
| `chrome/`, `dialogs/`, and a folder per screen | a region each: pure rows or drawings, and a thin view |

Two rules hold everywhere. Text that came from outside passes `text.sanitize` and is never parsed as markup. A lower
case key looks; only an upper case key acts, and only after a dialog whose default is Cancel.
"""
