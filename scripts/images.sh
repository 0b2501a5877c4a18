#!/bin/sh
# Makes the demo images from Debian packages, without any registry:
#   FOLDER/busybox.tar   docker.io/library/busybox:latest   a static busybox under all its names
#   FOLDER/nginx.tar     docker.io/library/nginx:latest     nginx in the foreground on port 80, logs to stdout and stderr
# An archive that is there is left alone. Needs Go, dpkg and apt with its lists (apt-get update); no root.
#   images.sh [FOLDER]   by default .images
set -eu
cd "$(dirname "$0")/.."
out=${1:-.images}
if [ -s "$out/busybox.tar" ] && [ -s "$out/nginx.tar" ]; then
	exit 0
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# unpack FOLDER PACKAGE… puts what the packages hold into FOLDER, as nothing is configured there.
unpack() {
	root=$1
	shift
	mkdir -p "$work/debs" "$root"
	rm -f "$work"/debs/*.deb
	(cd "$work/debs" && apt-get download -qq -o APT::Sandbox::User=root "$@")
	for deb in "$work"/debs/*.deb; do
		dpkg-deb --extract "$deb" "$root"
	done
	rm -rf "$root/usr/share/doc" "$root/usr/share/man" "$root/usr/share/lintian" "$root/usr/share/initramfs-tools"
}

# base FOLDER lays out what every image has: busybox under the names that are free, users, empty folders.
base() {
	mkdir -p "$1/bin" "$1/dev" "$1/etc" "$1/home" "$1/proc" "$1/root" "$1/run" "$1/sys" "$1/tmp" "$1/usr/bin" "$1/usr/sbin" "$1/usr/share" "$1/var/log"
	[ "$1" = "$work/busybox" ] || cp "$work/busybox/bin/busybox" "$1/bin/busybox"
	"$1/bin/busybox" --list-full | while read -r applet; do
		mkdir -p "$1/$(dirname "$applet")"
		[ -e "$1/$applet" ] || ln -s /bin/busybox "$1/$applet"
	done
	cat >"$1/etc/passwd" <<-END
		root:x:0:0:root:/root:/bin/sh
		daemon:x:1:1:daemon:/usr/sbin:/bin/false
		bin:x:2:2:bin:/bin:/bin/false
		mail:x:8:8:mail:/var/spool/mail:/bin/false
		www-data:x:33:33:www-data:/var/www:/bin/false
		nobody:x:65534:65534:nobody:/home:/bin/false
	END
	cat >"$1/etc/group" <<-END
		root:x:0:
		daemon:x:1:
		bin:x:2:
		tty:x:5:
		mail:x:8:
		www-data:x:33:
		users:x:100:
		nogroup:x:65534:
	END
}

mkimage() {
	"$work/mkimage" "$@"
}

CGO_ENABLED=0 go build -o "$work/mkimage" ./test/mkimage

unpack "$work/busybox" busybox-static
rm -rf "$work/busybox/usr"
base "$work/busybox"
mkimage -o "$out/busybox.tar" -t docker.io/library/busybox:latest -cmd sh -chmod /tmp=1777 -chmod /root=700 "$work/busybox"

# The libraries that nginx itself names are the whole closure: each needs only libc. Its other dependencies serve the packaging.
libraries=$(apt-cache depends --important nginx | sed -n 's/^ *Depends: \(lib.*\|zlib.*\)$/\1/p')
# shellcheck disable=SC2086 # a list of words
unpack "$work/nginx" nginx nginx-common $libraries
rm -rf "$work"/nginx/usr/lib/*/gconv "$work"/nginx/usr/lib/*/perl* "$work"/nginx/etc/nginx/sites-* "$work"/nginx/etc/nginx/modules-* \
	"$work"/nginx/etc/init.d "$work"/nginx/etc/ufw "$work"/nginx/etc/logrotate.d "$work"/nginx/usr/lib/systemd "$work"/nginx/lib/systemd
base "$work/nginx"
mkdir -p "$work/nginx/var/lib/nginx" "$work/nginx/var/log/nginx" "$work/nginx/usr/share/nginx/html" "$work/nginx/etc/nginx/conf.d"
ln -sf /dev/stdout "$work/nginx/var/log/nginx/access.log"
ln -sf /dev/stderr "$work/nginx/var/log/nginx/error.log"
cat >"$work/nginx/etc/nginx/nginx.conf" <<'END'
user www-data;
worker_processes auto;
error_log /var/log/nginx/error.log notice;
pid /run/nginx.pid;

events {
    worker_connections 1024;
}

http {
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    access_log /var/log/nginx/access.log;
    sendfile on;
    keepalive_timeout 65;
    include /etc/nginx/conf.d/*.conf;
}
END
cat >"$work/nginx/etc/nginx/conf.d/default.conf" <<'END'
server {
    listen 80;
    server_name localhost;

    location / {
        root /usr/share/nginx/html;
        index index.html index.htm;
    }
}
END
cat >"$work/nginx/usr/share/nginx/html/index.html" <<'END'
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body><h1>Welcome to nginx!</h1><p>The web server is working.</p></body>
</html>
END
mkimage -o "$out/nginx.tar" -t docker.io/library/nginx:latest -cmd nginx -cmd -g -cmd 'daemon off;' -stopsignal SIGQUIT -expose 80/tcp \
	-chmod /tmp=1777 -chmod /root=700 "$work/nginx"
