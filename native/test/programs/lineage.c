// SPDX-License-Identifier: Apache-2.0
// Ways to become an orphan, or the child of another; for tests. lineage <form> <marker>
// A launcher starts a middle process, that one a last process, which runs "true <marker>-last" once the kernel names another parent for it.
// Standard output, before that: pid of the middle process, and of the last one's parent by then. In form "held" the last process goes on when
// standard input has a byte for it, and the launcher stays until that ends.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *form, *marker;
static pid_t middle;
static pthread_t leader;

static int is(const char *name)
{
	return !strcmp(form, name);
}

static void last(void)
{
	char line[64], argument[256], byte;

	while (getppid() == middle)
		usleep(1000);
	snprintf(line, sizeof(line), "%d %d\n", middle, getppid());
	if (write(1, line, strlen(line)) < 0 || (is("held") && read(0, &byte, 1) != 1))
		_exit(2);
	snprintf(argument, sizeof(argument), "%s-last", marker);
	execl("/bin/true", "true", argument, NULL);
	_exit(1);
}

static void *start_last(void *after_leader)
{
	pid_t child;

	if (after_leader)
		pthread_join(leader, NULL);
	child = is("clone-parent") ? syscall(SYS_clone, CLONE_PARENT | SIGCHLD, 0, 0, 0, 0) : fork();
	if (child == 0)
		last();
	_exit(0);
}

static void in_middle(void)
{
	pthread_t thread;

	middle = getpid();
	leader = pthread_self();
	if (is("thread") || is("leader-ends")) {
		pthread_create(&thread, NULL, start_last, is("leader-ends") ? &leader : NULL);
		if (is("leader-ends"))
			pthread_exit(NULL);
		pause();
	}
	start_last(NULL);
}

int main(int argc, char **argv)
{
	int ends[2];
	char byte;

	if (argc != 3 || pipe(ends))
		return 2;
	form = argv[1];
	marker = argv[2];
	if (is("subreaper"))
		prctl(PR_SET_CHILD_SUBREAPER, 1);
	if (fork() == 0) {
		close(ends[0]);
		in_middle();
	}
	close(ends[1]);
	// Closed with the last process, whoever its parent is.
	while (read(ends[0], &byte, 1) > 0)
		;
	while (is("held") && read(0, &byte, 1) > 0)
		;
	while (wait(NULL) > 0)
		;
	return 0;
}
