{{- define "recompense.name" -}}
{{- if contains "recompense" .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-recompense" .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "recompense.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{/* What selects the pods of one kind: dict root, database, role. It never changes between versions. */}}
{{- define "recompense.selector" -}}
app.kubernetes.io/name: recompense
app.kubernetes.io/instance: {{ .root.Release.Name }}
recompense/database: {{ .database }}
recompense/role: {{ .role }}
{{- end -}}

{{- define "recompense.labels" -}}
{{ include "recompense.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* Numbers, because the image's user is a name, of which a cluster cannot tell that it is not root. */}}
{{- define "recompense.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "recompense.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* What all pods have: dict root, database, role. */}}
{{- define "recompense.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "recompense.podSecurity" . | nindent 2 }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* One password, of the one who connects: dict secret. */}}
{{- define "recompense.database" -}}
- name: DATABASE_URL
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: url
{{- end -}}

{{/* What service and relay are told: dict root, secret, port, env. */}}
{{- define "recompense.environment" -}}
{{ include "recompense.database" . }}
- name: KAFKA_BROKERS
  value: {{ required "kafka.brokers is needed: host:port" .root.Values.kafka.brokers | quote }}
- name: LISTEN
  value: "0.0.0.0:{{ .port }}"
- name: LOG_FORMAT
  value: {{ .root.Values.telemetry.logFormat }}
- name: RUST_LOG
  value: {{ .root.Values.telemetry.log | quote }}
{{- with .root.Values.telemetry.otlpEndpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- range $name, $value := .env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end -}}

{{/* Whether a service is told who may call: tokens, jwt. Fails where it would not start. */}}
{{- define "recompense.checkAuth" -}}
{{- $jwt := .Values.auth.jwt -}}
{{- $given := len (compact (list $jwt.issuer $jwt.audience $jwt.jwks)) -}}
{{- if and (gt $given 0) (lt $given 3) -}}
{{- fail "auth.jwt.issuer, auth.jwt.audience and auth.jwt.jwks belong together: give all three, or none" -}}
{{- end -}}
{{- if not (or .Values.auth.tokensSecret (eq $given 3) .Values.auth.insecure) -}}
{{- fail "nobody would be asked who he is, and the services would not start: set auth.tokensSecret or auth.jwt.*, or auth.insecure=true where something in front asks" -}}
{{- end -}}
{{- end -}}

{{/* What a service is told of who may call: dict root. */}}
{{- define "recompense.auth" -}}
{{- with .root.Values.auth.tokensSecret }}
- name: AUTH_TOKENS
  value: /etc/recompense/auth/tokens
{{- end }}
{{- with .root.Values.auth.jwt }}
{{- if .issuer }}
- name: JWT_ISSUER
  value: {{ .issuer | quote }}
- name: JWT_AUDIENCE
  value: {{ .audience | quote }}
- name: JWT_JWKS
  value: {{ .jwks | quote }}
- name: JWT_ALGORITHMS
  value: {{ .algorithms | quote }}
- name: JWT_ROLE_CLAIM
  value: {{ .roleClaim | quote }}
{{- end }}
{{- end }}
{{- if .root.Values.auth.insecure }}
- name: INSECURE
  value: "true"
{{- end }}
{{- end -}}

{{/* The other services, as the dashboard is told of them: dict root, database. */}}
{{- define "recompense.neighbours" -}}
{{- $neighbours := list -}}
{{- range $database, $it := .root.Values.databases -}}
{{- if ne $database $.database -}}
{{- $neighbours = append $neighbours (printf "%s=http://%s-%s:%v" $it.service (include "recompense.name" $.root) $it.service $it.port) -}}
{{- end -}}
{{- end -}}
{{- join "," $neighbours -}}
{{- end -}}

{{/* The port of the issuer's keys; none without JWTs: root. */}}
{{- define "recompense.jwksPort" -}}
{{- with .Values.auth.jwt.jwks -}}
{{- $url := urlParse . -}}
{{- $port := regexFind ":[0-9]+$" $url.host | trimPrefix ":" -}}
{{- if $port }}{{ $port }}{{ else if eq $url.scheme "https" }}443{{ else }}80{{ end -}}
{{- end -}}
{{- end -}}

{{/* A deployment, what finds it and what keeps one of it: dict root, database, role, name, command, secret, port, env, replicas, resources, ready. */}}
{{- define "recompense.workload" -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ .name }}
  labels:
    {{- include "recompense.labels" . | nindent 4 }}
spec:
  replicas: {{ .replicas }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate: { maxUnavailable: 0, maxSurge: 1 }
  selector:
    matchLabels:
      {{- include "recompense.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "recompense.labels" . | nindent 8 }}
      {{- with .root.Values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- include "recompense.pod" . | nindent 6 }}
      # SHUTDOWN_TIMEOUT is 10 s, and the wait before it 5 s.
      terminationGracePeriodSeconds: 30
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "recompense.selector" . | nindent 14 }}
      containers:
        - name: {{ .command }}
          image: {{ include "recompense.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          command: [{{ .command | quote }}]
          env:
            {{- include "recompense.environment" . | nindent 12 }}
            {{- if eq .role "service" }}
            {{- include "recompense.auth" . | nindent 12 }}
            {{- end }}
          ports:
            - { name: http, containerPort: {{ .port }} }
          startupProbe:
            httpGet: { path: /healthz, port: http }
            periodSeconds: 1
            failureThreshold: 60
          readinessProbe:
            httpGet: { path: {{ .ready | quote }}, port: http }
            periodSeconds: 5
            timeoutSeconds: 3
          livenessProbe:
            httpGet: { path: /healthz, port: http }
            periodSeconds: 10
            timeoutSeconds: 3
            failureThreshold: 6
          {{- if eq .role "service" }}
          lifecycle:
            preStop:
              # Until nobody sends it anything any more.
              exec: { command: ["sleep", "5"] }
          {{- end }}
          resources:
            {{- toYaml .resources | nindent 12 }}
          securityContext:
            {{- include "recompense.containerSecurity" . | nindent 12 }}
          {{- if and (eq .role "service") .root.Values.auth.tokensSecret }}
          volumeMounts:
            # The folder, not the file: a file that is mounted alone stays as it was.
            - { name: tokens, mountPath: /etc/recompense/auth, readOnly: true }
      volumes:
        - name: tokens
          secret:
            secretName: {{ .root.Values.auth.tokensSecret }}
            items: [{ key: tokens, path: tokens }]
          {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ .name }}
  labels:
    {{- include "recompense.labels" . | nindent 4 }}
spec:
  {{- if eq .role "relay" }}
  # Nobody calls a relay; it is asked how it is.
  clusterIP: None
  {{- end }}
  selector:
    {{- include "recompense.selector" . | nindent 4 }}
  ports:
    - { name: http, port: {{ .port }}, targetPort: http }
{{- if .root.Values.podDisruptionBudget.enabled }}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  labels:
    {{- include "recompense.labels" . | nindent 4 }}
spec:
  maxUnavailable: 1
  # One that is not ready keeps nothing going, and must not keep a node from being drained: without the broker no relay is ready.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "recompense.selector" . | nindent 6 }}
{{- end }}
{{- end -}}
