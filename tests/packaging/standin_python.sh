#!/bin/sh
# Stands in for /usr/bin/python3 and the Python of a release where a test kills the installer at each of its steps, hundreds
# of times: it makes in milliseconds what venv and pip make in seconds. What it says and does is set by files in $STAGE.
# test_install.py makes releases with the real ones.
here=$(dirname "$0")
case "$1 $2" in
  "-c "*) echo 3.11 ;;
  "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  "-m pip")
    if [ -e "$STAGE/hold" ]; then touch "$STAGE/holding"; while [ -e "$STAGE/hold" ]; do sleep 0.02; done; fi
    if [ -e "$STAGE/pip-fails" ]; then echo "no matching distribution" >&2; exit 1; fi
    for last; do :; done
    case "$last" in
      *.whl)
        basename "$last" | cut -d- -f2 > "$here/version"
        cat > "$here/headrace" <<'COMMAND'
#!/bin/sh
version=$(cat "$(dirname "$0")/version")
case "$1" in
  status) cat "$STAGE/status" 2>/dev/null || echo '{"processes": []}' ;;
  check-config) if [ -e "$STAGE/fault-$version" ]; then echo "model[0]: no such file" >&2; exit 78; fi ;;
  restart)
    if [ -e "$STAGE/broken-$version" ]; then
      echo "worker@m.0.0 fails" >&2
      echo '{"restarted": [], "failed": "worker@m.0.0", "reason": "died five times", "left": []}'
      exit 1
    fi
    echo "$version" >> "$STAGE/restarts" ;;
esac
COMMAND
        chmod 755 "$here/headrace" ;;
    esac ;;
  "-m cli.release.selfcheck")
    if [ -e "$STAGE/import-fails" ]; then echo "ImportError: libcuda" >&2; exit 1; fi
    cat "$here/version" ;;
esac
