// SPDX-License-Identifier: Apache-2.0
// Ways to accept a connection from a listener that another made; for tests. accept_forms <form> <4|6> <tcp|mptcp>
// Standard output: the port, then pid and thread of whoever accepted one connection. That one is closed when its peer has closed it.
// accept_forms connect <4|6> <tcp|mptcp> <port>: the other end; prints its own port, and closes when standard input does.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#define ACTIVATED_FD 3 /* where systemd puts the first listener */

static const char *form;

static int is(const char *name)
{
	return !strcmp(form, name);
}

static void *accept_one(void *listener)
{
	int connection = accept4(*(int *)listener, NULL, NULL, SOCK_CLOEXEC);
	char byte;

	if (connection < 0)
		exit(3);
	printf("%d %ld\n", getpid(), syscall(SYS_gettid));
	fflush(stdout);
	if (is("handed-over") && fork() != 0) {
		close(connection);
		wait(NULL);
		return NULL;
	}
	while (read(connection, &byte, 1) > 0)
		;
	close(connection);
	return NULL;
}

static int open_socket(const char *family, const char *protocol, int port)
{
	struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT, .sin6_port = htons(port) };
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
	int is_four = *family == '4';
	struct sockaddr *address = is_four ? (struct sockaddr *)&four : (struct sockaddr *)&six;
	socklen_t size = is_four ? sizeof(four) : sizeof(six);
	int fd = socket(address->sa_family, SOCK_STREAM, strcmp(protocol, "mptcp") ? 0 : IPPROTO_MPTCP);

	if (fd < 0 || (port ? connect(fd, address, size) : bind(fd, address, size) || listen(fd, 8)) || getsockname(fd, address, &size))
		exit(4);
	printf("%d\n", ntohs(is_four ? four.sin_port : six.sin6_port));
	fflush(stdout);
	return fd;
}

int main(int argc, char **argv)
{
	pid_t maker = getpid();
	pthread_t thread;
	int listener;
	char byte;

	if (argc < 4)
		return 2;
	form = argv[1];
	if (is("connect")) {
		open_socket(argv[2], argv[3], atoi(argv[4]));
		return read(0, &byte, 1) != 0;
	}
	if (is("from-inherited")) {
		listener = ACTIVATED_FD;
		accept_one(&listener);
		return 0;
	}
	listener = open_socket(argv[2], argv[3], 0);
	if (is("thread")) {
		pthread_create(&thread, NULL, accept_one, &listener);
		pthread_join(thread, NULL);
	} else if (is("own") || is("handed-over")) {
		accept_one(&listener);
	} else if (fork() == 0) {
		while (is("daemon") && getppid() == maker)
			usleep(1000);
		if (is("activated")) {
			dup2(listener, ACTIVATED_FD);
			execl("/proc/self/exe", "accept_forms", "from-inherited", argv[2], argv[3], NULL);
			return 5;
		}
		accept_one(&listener);
	} else if (!is("daemon")) { /* prefork, activated */
		wait(NULL);
	}
	return 0;
}
