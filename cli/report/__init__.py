"""`headrace report`: everything that somebody far away needs to find out what happened here, in one file, without keys,
prompts or answers.

| module     | what is there                                                |
|------------|--------------------------------------------------------------|
| `secrets`  | what must not be in it, and taking it out                    |
| `host`     | versions and the machine                                     |
| `contents` | the parts: configuration, status, metrics, logs, recordings  |
| `bundle`   | the file: writing, reading, listing, letting old ones go     |
| `shown`    | a report from anywhere as text                               |
| `command`  | the command                                                  |
"""
