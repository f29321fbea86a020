#!/usr/bin/env bash
# tools/install_packages.sh GROUP... - installs the packages of tools/packages.txt that are missing (groups: build model test).
# Does nothing, and asks for no rights, where all of them are there.
set -euo pipefail
list=$(dirname "${BASH_SOURCE[0]}")/packages.txt
[ $# -gt 0 ] || set -- build model test

missing=()
for group in "$@"; do
  while read -r name; do
    status=$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null) || status=absent
    [ "$status" = installed ] || missing+=("$name")
  done < <(awk -v group="$group" '$1 == group { print $2 }' "$list")
done
[ ${#missing[@]} -gt 0 ] || exit 0

echo "Installing ${missing[*]}" >&2
as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo > /dev/null || {
    echo "error: packages are missing (${missing[*]}) and there is neither root nor sudo to install them" >&2
    exit 1
  }
  as_root=(sudo)
fi
install=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0)
{
  "${install[@]}" update
  "${install[@]}" install --no-install-recommends "${missing[@]}"
} < /dev/null >&2
