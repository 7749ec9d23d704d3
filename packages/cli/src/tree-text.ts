/** Draws a process with its ancestors and descendants. */
import type { Paint } from './event-line.ts';

export interface TreeNode {
  /** One line, already safe for a terminal. */
  label: string;
  children: readonly TreeNode[];
}

/** Lines with branches; children stand under their parent. */
export function treeLines(root: TreeNode, paint: Paint): string[] {
  const lines: string[] = [];
  const waiting: { node: TreeNode; branch: string; indent: string }[] = [{ node: root, branch: '', indent: '' }];
  for (let item = waiting.pop(); item; item = waiting.pop()) {
    const { node, branch, indent } = item;
    lines.push(paint('gray', branch) + node.label);
    for (let i = node.children.length - 1; i >= 0; i--) {
      const isLast = i === node.children.length - 1;
      waiting.push({ node: node.children[i]!, branch: indent + (isLast ? '└─ ' : '├─ '), indent: indent + (isLast ? '   ' : '│  ') });
    }
  }
  return lines;
}
