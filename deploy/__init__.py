"""What an installation needs beside the code: files only. `headrace systemd install` reads them from here."""
