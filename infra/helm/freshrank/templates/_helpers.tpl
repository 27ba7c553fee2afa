{{- define "freshrank.labels" -}}
app.kubernetes.io/name: freshrank
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "freshrank.selector" -}}
app.kubernetes.io/name: freshrank
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "freshrank.image" -}}
{{ .root.Values.image.registry }}/freshrank-{{ .role }}@{{ index .root.Values.image.digests .role }}
{{- end }}

{{- define "freshrank.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "freshrank.container" -}}
imagePullPolicy: IfNotPresent
securityContext:
  runAsNonRoot: true
  readOnlyRootFilesystem: true
  allowPrivilegeEscalation: false
  privileged: false
  capabilities: {drop: [ALL]}
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- /* What every process of ours is told. Settings refuse a FRESHRANK_ variable they do not know. */ -}}
{{- define "freshrank.env" -}}
- {name: HOME, value: /var/lib/freshrank}
- {name: FRESHRANK_HOME, value: /var/lib/freshrank}
- {name: FRESHRANK_BIND, value: 0.0.0.0}
- {name: FRESHRANK_STORE_ENDPOINT, value: aws}
- {name: FRESHRANK_STORE_BUCKET, value: {{ .Values.store.bucket | quote }}}
- {name: FRESHRANK_STORE_REGION, value: {{ .Values.store.region | quote }}}
- {name: FRESHRANK_STORE_SSE, value: "aws:kms"}
{{- with .Values.store.kmsKey }}
- {name: FRESHRANK_STORE_KMS_KEY, value: {{ . | quote }}}
{{- end }}
- {name: FRESHRANK_PUBLIC_KEYS, value: /etc/freshrank/keys/public-keys.pem}
- {name: FRESHRANK_CONTROLLER_URL, value: "http://{{ .Release.Name }}-controller:28001"}
- {name: FRESHRANK_MERCHANDISING, value: store}
- {name: FRESHRANK_MLFLOW_URL, value: "http://{{ .Release.Name }}-mlflow:28002"}
- {name: DO_NOT_TRACK, value: "true"}
{{- end }}

{{- /* Rankers of one release: everything about them is here, for the Deployments, the Rollout and the controller alike. */ -}}
{{- define "freshrank.ranker.template" -}}
metadata:
  labels:
    {{- include "freshrank.selector" (dict "root" .root "component" "ranker") | nindent 4 }}
    freshrank.dev/release: {{ .release | trunc 12 | quote }}
  annotations:
    prometheus.io/scrape: "true"
    prometheus.io/port: "8080"
spec:
  serviceAccountName: {{ .root.Release.Name }}-ranker
  {{- include "freshrank.pod" .root | nindent 2 }}
  terminationGracePeriodSeconds: 40
  topologySpreadConstraints:
    - maxSkew: 1
      topologyKey: topology.kubernetes.io/zone
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- include "freshrank.selector" (dict "root" .root "component" "ranker") | nindent 10 }}
  initContainers:
    - name: fetch   # every file and the signature are checked before a byte of the release runs
      image: {{ include "freshrank.image" (dict "root" .root "role" "orchestrator") }}
      {{- include "freshrank.container" .root | nindent 6 }}
      command: [python, -m, tasks.controller.fetch, {{ .release | quote }}, --link, /var/lib/freshrank/current]
      env:
        {{- include "freshrank.env" .root | nindent 8 }}
      resources:
        {{- toYaml .root.Values.ranker.resources | nindent 8 }}
      volumeMounts:
        - {name: home, mountPath: /var/lib/freshrank}
        - {name: keys, mountPath: /etc/freshrank/keys, readOnly: true}
        - {name: tmp, mountPath: /tmp}
    - name: rules   # what may not be shown, seconds after `freshrank items` said so; runs beside the ranker, and before it
      restartPolicy: Always
      image: {{ include "freshrank.image" (dict "root" .root "role" "orchestrator") }}
      {{- include "freshrank.container" .root | nindent 6 }}
      command: [python, -m, tasks.controller.rules, /var/lib/freshrank/merchandising]
      env:
        {{- include "freshrank.env" .root | nindent 8 }}
      startupProbe: {exec: {command: [test, -d, /var/lib/freshrank/merchandising]}, periodSeconds: 1, failureThreshold: 120}
      resources: {requests: {cpu: 20m, memory: 128Mi}, limits: {cpu: 500m, memory: 512Mi}}
      volumeMounts:
        - {name: home, mountPath: /var/lib/freshrank}
        - {name: tmp, mountPath: /tmp}
  containers:
    - name: ranker
      image: {{ include "freshrank.image" (dict "root" .root "role" "serving") }}
      {{- include "freshrank.container" .root | nindent 6 }}
      workingDir: /var/lib/freshrank/current/src
      # a release of before merchandising rules refuses the argument
      command:
        - /bin/sh
        - -c
        - >-
          test ! -f tasks/serving/merchandise.py || set -- "$@" --merchandising=/var/lib/freshrank/merchandising;
          exec "$0" "$@"
        - python
        - -B
        - -m
        - bentos.ranker
      args:
        - --release=/var/lib/freshrank/current/src/release
        - --view=/var/lib/freshrank/current/view
        - --digest={{ .release }}
        - --host=0.0.0.0
        - --port=8080
        - --replica=$(POD_NAME)
        - --public-keys=/etc/freshrank/keys/public-keys.pem
        - --secrets=/etc/freshrank/secret/secrets.json
        - --spool=/var/lib/freshrank/spool
        - --store-config=/etc/freshrank/store/store.json
        - --deadline-ms={{ .root.Values.ranker.deadlineMs }}
        {{- with .root.Values.ranker.valkeyUrl }}
        - --valkey={{ . }}
        {{- end }}
        - --drain-s=5
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
      ports:
        - {name: http, containerPort: 8080}
      startupProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 2, failureThreshold: 60}
      readinessProbe: {httpGet: {path: /readyz, port: http}, periodSeconds: 2, timeoutSeconds: 2, failureThreshold: 2}
      livenessProbe: {httpGet: {path: /livez, port: http}, periodSeconds: 10, timeoutSeconds: 5, failureThreshold: 6}
      resources:
        {{- toYaml .root.Values.ranker.resources | nindent 8 }}
      volumeMounts:
        - {name: home, mountPath: /var/lib/freshrank}
        - {name: keys, mountPath: /etc/freshrank/keys, readOnly: true}
        - {name: secret, mountPath: /etc/freshrank/secret, readOnly: true}
        - {name: store, mountPath: /etc/freshrank/store, readOnly: true}
        - {name: tmp, mountPath: /tmp}
  volumes:
    - {name: home, emptyDir: {}}
    - {name: tmp, emptyDir: {}}
    - name: keys
      configMap: {name: {{ .root.Values.secrets.publicKeys }}}
    - name: secret
      secret: {secretName: {{ .root.Values.secrets.ranker }}, defaultMode: 288}
    - name: store
      configMap: {name: {{ .root.Release.Name }}-ranker-store}
{{- end }}

{{- /* Deployment and Service of one release, named by its digest: the controller's own and the chart's are the same. */ -}}
{{- define "freshrank.ranker.objects" -}}
{{- $name := printf "%s-ranker-%s" .root.Release.Name (.release | trunc 12) -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "freshrank.labels" .root | nindent 4 }}
    app.kubernetes.io/component: ranker
    freshrank.dev/release: {{ .release | trunc 12 | quote }}
  annotations:
    freshrank.dev/release: {{ .release | quote }}
    # a release that serves outlives the chart's mention of it: only the rollout log retires it
    helm.sh/resource-policy: keep
spec:
  {{- if eq .root.Values.ranker.autoscaling.by "none" }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 1
  strategy: {rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}
  selector:
    matchLabels:
      {{- include "freshrank.selector" (dict "root" .root "component" "ranker") | nindent 6 }}
      freshrank.dev/release: {{ .release | trunc 12 | quote }}
  template:
    {{- include "freshrank.ranker.template" . | nindent 4 }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "freshrank.labels" .root | nindent 4 }}
    app.kubernetes.io/component: ranker
    freshrank.dev/release: {{ .release | trunc 12 | quote }}
  annotations: {helm.sh/resource-policy: keep}
spec:
  selector:
    {{- include "freshrank.selector" (dict "root" .root "component" "ranker") | nindent 4 }}
    freshrank.dev/release: {{ .release | trunc 12 | quote }}
  ports:
    - {name: http, port: 8080, targetPort: http}
{{- end }}

{{- /* By queue depth and latency, of what kind the values say. `target` is {apiVersion, kind, name}. */ -}}
{{- define "freshrank.ranker.autoscaler" -}}
{{- $auto := .root.Values.ranker.autoscaling -}}
{{- if eq $auto.by "hpa" }}
apiVersion: autoscaling/v2
kind: HorizontalPodAutoscaler
metadata:
  name: {{ .target.name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "freshrank.labels" .root | nindent 4 }}
    app.kubernetes.io/component: ranker
spec:
  scaleTargetRef:
    {{- toYaml .target | nindent 4 }}
  minReplicas: {{ $auto.minReplicas }}
  maxReplicas: {{ $auto.maxReplicas }}
  metrics:
    - type: Pods
      pods:
        metric: {name: freshrank_pending}
        target: {type: AverageValue, averageValue: {{ $auto.pendingPerReplica | quote }}}
    - type: Pods
      pods:
        metric: {name: freshrank_rank_seconds_p95}
        target: {type: AverageValue, averageValue: {{ printf "%dm" (mulf $auto.p95Seconds 1000 | int) | quote }}}
  behavior:
    scaleUp: {stabilizationWindowSeconds: 0}
    scaleDown: {stabilizationWindowSeconds: 300}
{{- else if eq $auto.by "keda" }}
apiVersion: keda.sh/v1alpha1
kind: ScaledObject
metadata:
  name: {{ .target.name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "freshrank.labels" .root | nindent 4 }}
    app.kubernetes.io/component: ranker
spec:
  scaleTargetRef:
    {{- toYaml .target | nindent 4 }}
  minReplicaCount: {{ $auto.minReplicas }}
  maxReplicaCount: {{ $auto.maxReplicas }}
  pollingInterval: 15
  cooldownPeriod: 300
  triggers:
    - type: prometheus
      metricType: AverageValue
      metadata:
        serverAddress: {{ $auto.prometheusUrl | quote }}
        query: sum(freshrank_pending{namespace="{{ .root.Release.Namespace }}",pod=~"{{ .target.name }}-.*"})
        threshold: {{ $auto.pendingPerReplica | quote }}
    - type: prometheus
      metricType: Value
      metadata:
        serverAddress: {{ $auto.prometheusUrl | quote }}
        query: histogram_quantile(0.95, sum by (le) (rate(freshrank_rank_seconds_bucket{namespace="{{ .root.Release.Namespace }}",pod=~"{{ .target.name }}-.*"}[2m])))
        threshold: {{ $auto.p95Seconds | quote }}
{{- end }}
{{- end }}
